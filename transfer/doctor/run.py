"""Checks a config's data, weights, batch and memory for anything that would stop a run.

This is the only module of the doctor that reads configs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.cli import short_names
from pretrain.common.config import base_chain, find_config, flat, load_config
from pretrain.common.errors import InputError
from pretrain.common.gpus import Gpu, present_gpu
from pretrain.common.resources import usable_workers
from pretrain.common.run_needs import gpu_lines
from pretrain.data.build import open_data
from pretrain.data.datasets import ImageDataset
from pretrain.data.decoded_cache import copies, why_not_kept
from pretrain.optim.schedules import scaled_lr
from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.opened import OpenedWeights
from transfer.classification.defaults import get_defaults as classification_defaults
from transfer.detection.config import all_defaults
from transfer.doctor.data import check_split
from transfer.doctor.environment import check_environment
from transfer.doctor.probed_cost import add_estimates, add_lines
from transfer.doctor.rows import FAIL, OK, WARN, Rows
from transfer.doctor.task import check_run_of_task
from transfer.doctor.weights import check_weights
from transfer.suite.check import Checked, Checks, Pretraining, check_configs, check_jobs, check_task
from transfer.suite.config import Problems
from transfer.suite.defaults import suite_defaults
from transfer.suite.gpu_needs import loader_lines, needs_of_detector, needs_of_jobs
from transfer.suite.plan import Job, command_of, plan

FOLDERS = {"pretrain": "pretrain", "detection": "det", "classification": "cls", "suites": "suite"}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """Says what the user wants to check; `probe_seconds` 0 measures nothing."""

    config: str | None = None
    weights: str | None = None
    output: Path = Path("runs")
    num_gpus: int = 1
    engine: str = "auto"
    probe_seconds: float = 0.0
    gpu: Gpu | None = None  # GPU of a different machine for the run; None: this machine's
    overrides: tuple[str, ...] = ()


def examine(question: Question, pretraining: Pretraining, say: Say) -> Rows:
    """Returns all findings about the question, and changes nothing.

    Raises InputError for a config that is not found or not of a known kind.
    """
    rows = Rows()
    kind, path = kind_of(question.config, pretraining) if question.config else ("", "")
    engine = "" if kind in ("pretrain", "cls") else question.engine
    asked = question.gpu.name if question.gpu else ""
    check_environment(rows, question.output, question.num_gpus, engine, asked)
    if kind == "suite":
        _suite(rows, path, question, pretraining, say)
    elif kind:
        _run(rows, kind, path, question, pretraining, say)
    elif question.weights:
        check_weights(rows, OpenedWeights(question.weights), None)
    return rows


def kind_of(config: str, pretraining: Pretraining) -> tuple[str, str]:
    """Returns (pretrain, det, cls or suite; the config's path).

    The kind follows from the folder, otherwise from the kind as which the config loads.

    Raises:
        InputError: it is not found, or loads as none of them; then the message is about the kind
            that has most of its keys.
    """
    path = find_config(config)
    for part in reversed(path.resolve().parts[:-1]):
        if part in FOLDERS:
            return FOLDERS[part], str(path)
    keys = {key for _, content in base_chain(path) for key in flat(content)}
    nearest, known = None, 0
    for kind, defaults in {
        "suite": suite_defaults,
        "cls": classification_defaults,
        "pretrain": pretraining.get_defaults,
        "det": all_defaults,
    }.items():
        try:
            load_config(str(path), defaults())
            return kind, str(path)
        except InputError as error:
            if (shared := len(keys & set(flat(defaults())))) > known:
                nearest, known = error, shared
    raise nearest or InputError(
        f"{path} is not a config of pretraining, detection, classification or a suite: its keys "
        f"are {', '.join(sorted(keys)[:3])}"
    )


def _run(
    rows: Rows, kind: str, path: str, question: Question, pretraining: Pretraining, say: Say
) -> None:
    """Adds the rows of one command."""
    overrides, output = question.overrides, question.output / "doctor"
    weights = question.weights or RANDOM
    options = () if kind == "pretrain" else ("--weights", weights)
    job = Job(
        Path(path).stem,
        command_of(kind, path, output, overrides, options, question.num_gpus),
        output,
        (output,),
        kind=kind,
        config=path,
        overrides=overrides,
        weights=weights,
        gpus=question.num_gpus,
    )
    backbone = None
    if kind == "pretrain":
        _pretraining(rows, job, pretraining, question.gpu)
        if question.weights:
            backbone = check_weights(rows, OpenedWeights(question.weights), None)
    else:
        backbone = check_run_of_task(rows, job, question.weights)
        if kind == "det" and (gpu := question.gpu or present_gpu()):
            with rows.about(f"memory {gpu.name}"):
                if needs := needs_of_detector(job):
                    add_lines(rows, gpu_lines(needs, gpu))
    if question.probe_seconds <= 0:
        rows.add("time", OK, "not measured: add --probe")
    elif not rows.failures():
        facts = Checked() if kind == "pretrain" else check_task(job, backbone)
        checks = Checks({job.name: facts}, backbones={job.name: backbone})
        add_estimates(rows, [job], checks, question.probe_seconds, say)


def _suite(rows: Rows, path: str, question: Question, pretraining: Pretraining, say: Say) -> None:
    """Adds rows for all jobs of a suite, with the question's weights as one more checkpoint."""
    weights = question.weights
    try:
        cfg = load_config(path, suite_defaults(), question.overrides, "suites")
        given = {short_names([weights])[0]: weights} if weights else {}
        jobs = plan(cfg, question.output / Path(path).stem, given, question.num_gpus)
        check_configs(jobs, pretraining)
    except InputError as error:
        for line in error.lines if isinstance(error, Problems) else [str(error)]:
            rows.add("suite", FAIL, line)
        return
    todo = [job for job in jobs if not job.is_done()]
    rows.add("suite", OK, f"{path}: {len(jobs)} jobs, {len(jobs) - len(todo)} of them done")
    checks = check_jobs(jobs, pretraining)
    for about, what in dict.fromkeys(checks.problems.values()):
        rows.add(about, FAIL, what)
    if gpu := question.gpu or present_gpu():
        here = question.gpu is None
        for name, lines in needs_of_jobs(todo, checks, pretraining, gpu, here).items():
            add_lines(rows, lines, f" of {name}")
    if question.probe_seconds > 0:
        add_estimates(rows, todo, checks, question.probe_seconds, say)


def _pretraining(rows: Rows, job: Job, pretraining: Pretraining, wanted: Gpu | None) -> None:
    """Adds rows about config, batch, learning rate, images, and the run's memory and time."""
    with rows.about("config"):
        cfg = pretraining.load_checked(job.config, job.overrides, job.processes)
        rows.add("config", OK, f"{job.config}: {cfg.METHOD.NAME}, {cfg.BACKBONE.NAME}")
        batch, note = cfg.SOLVER.BATCH_SIZE, pretraining.batch_note(cfg)
        rate = scaled_lr(cfg.SOLVER.LR_PER_256, batch)
        text = f"effective batch {batch} ({job.processes} x {batch // job.processes}), "
        text += f"learning rate {rate:g}{'; ' + note if note else ''}"
        rows.add("batch", WARN if note else OK, text)
        count: int | None = None
        with rows.about("data"):
            data = open_data(cfg)
            count = len(data.train)
            for name, images in data.named.items():
                _images(rows, name, images)
            if cfg.DATALOADER.CACHE_DECODED:
                _cache(rows, cfg, data.train, job.processes)
            if note := pretraining.queue_note(cfg, len(data.train)):
                rows.add("queue", WARN, note)
            pretraining.check_inputs(cfg, data.named)
        add_lines(rows, loader_lines(cfg, job, here=wanted is None))
        if gpu := wanted or present_gpu():
            with rows.about(f"memory {gpu.name}"):
                add_lines(rows, gpu_lines(pretraining.run_needs(cfg, job.processes, count), gpu))


def _images(rows: Rows, name: str, images: ImageDataset) -> None:
    count, classes = len(images), len(images.classes)
    left_out, files = images.left_out, images.files()
    check_split(rows, name, count, classes, images.read, left_out=left_out, files=files)


def _cache(rows: Rows, cfg: CfgNode, images: ImageDataset, processes: int) -> None:
    """Adds a row that says whether DATALOADER.CACHE_DECODED will be used, by the loader's rule."""
    workers = usable_workers(cfg.DATALOADER.NUM_WORKERS)
    reason = why_not_kept(images, copies(workers, processes))
    text = f"not used, images are read from files: {reason}" if reason else "decoded images fit"
    rows.add("cache", OK, f"DATALOADER.CACHE_DECODED: {text}")
