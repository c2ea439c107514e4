"""Adds rows about a run of train_det or train_cls: its config, batch, weights and data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from pretrain.data.decode import decode_image
from pretrain.data.origins import evenly
from transfer.checkpoints.files import RANDOM
from transfer.classification.splits import Split
from transfer.datasets.checks_before_training import count
from transfer.datasets.samples import DetectionSet
from transfer.doctor.data import HEADERS, check_shared, check_split
from transfer.doctor.rows import OK, WARN, Rows
from transfer.doctor.weights import check_weights
from transfer.suite.check import request_of, task_of_job
from transfer.suite.plan import Job
from transfer.trials.task import Request, Task


def check_run_of_task(rows: Rows, job: Job, weights: str | None) -> str | None:
    """Adds the rows of a det or cls job; returns the backbone of its weights, if it is known.

    Args:
        weights: weights that the user gave; None: none.
    """
    request = request_of(job, job.weights)
    task, cfg, builds = None, None, None
    with rows.about("config"):
        task = task_of_job(job)
        cfg = task.load_config(job.config, job.overrides)
        builds = task.backbone_name(cfg)
        found = ", ".join(filter(None, (task.task_in_records(cfg), builds)))
        rows.add("config", OK, f"{job.config}: {found}")
        with rows.about("batch"):
            line = task.describe_batch(cfg, job.config, job.processes)
            rows.add("batch", WARN if ": no" in line else OK, line)
    backbone = builds
    if weights is None:
        rows.add("weights", WARN, "none given: add --weights FILE")
    else:
        backbone = check_weights(rows, request.opened, builds)
    if task is not None and cfg is not None:
        # If no weights can be read, random ones are used, and the data is still checked.
        stand_in = builds is None and backbone is None and weights != RANDOM
        words = [word for key in task.untrained for word in (key, "resnet50")]
        _check_data(rows, task, request_of(job, RANDOM, words) if stand_in else request)
    return backbone


def _check_data(rows: Rows, task: Task[Any], request: Request) -> None:
    """Adds rows for both splits, and for weights from which the task cannot start.

    All image files are checked if the task does so.
    """
    opened, reads = None, False
    with rows.about("data"):
        opened = task.open_data(request)
        for data in (opened.train_set, opened.test_set):
            if isinstance(data, Split):
                _check_labelled(rows, data)
            else:
                _check_annotated(rows, data, trained=data is opened.train_set)
        check_shared(rows, opened.data)
        # Untrained weights have no file, only the name of their backbone.
        reads = request.weights != RANDOM or task.backbone_name(opened.cfg) is None
    if opened is not None and reads and not rows.failures():
        with rows.about("weights"):
            task.read_weights(opened, opened.cfg.SEED)


def _check_labelled(rows: Rows, split: Split) -> None:
    """Adds the row about a split of labelled images."""
    names = [split.images.name(index) for index in evenly(len(split), HEADERS)]
    check_split(
        rows,
        split.name,
        len(split),
        len(split.classes),
        split.images.read,
        left_out=split.left_out,
        files=[name for name in names if Path(name).is_file()],
    )


def _check_annotated(rows: Rows, data: Any, trained: bool) -> None:
    """Adds the rows about a DetectionSet or a SemanticSet.

    Args:
        trained: whether it is the training set.
    """
    objects = [len(getattr(sample, "instances", ())) for sample in data.samples]

    def read(index: int) -> Image.Image:
        sample = data.samples[index]
        if hasattr(sample, "mask"):
            sample.mask()
        return decode_image(sample.file_name, fast=False, turn=True)

    extra = f"{sum(objects)} objects" if any(objects) else ""
    check_split(rows, data.name, len(data), len(data.classes), read, extra)
    if isinstance(data, DetectionSet):
        counts = count(data)
        rows.add(f"objects {data.name}", OK, f"{counts.line(trained)}; {counts.classes()}")
