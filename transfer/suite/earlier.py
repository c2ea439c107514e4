"""Checks, before anything starts, that a job's folder matches what the suite asks for now.

A record counts as done and a checkpoint is continued, so either must be of the config and the
weights that the suite names now. Configs are compared as they were asked for: no data is opened,
and what the data, the weights and the machine have decided is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from transfer.results.record import read_record
from transfer.suite.plan import Job
from transfer.trials.earlier import check_folder
from transfer.trials.task import CONFIG_FILE, Task


def check_task_folder(job: Job, task: Task[Any], sha256: str | None) -> None:
    """Raises InputError for a trial of another protocol, config, seed, or of other weights.

    Args:
        sha256: of the weights; None: not known, or drawn by each trial from its own seed.
    """
    cfg = task.load_config(job.config, job.overrides)
    protocol = task.protocol_name(cfg, job.config)
    for trial, path in enumerate(job.results):
        found = read_record(path)["protocol"]["name"] if path.exists() else protocol
        if found != protocol:
            raise InputError(
                f"{path} is of the protocol {found}, not {protocol}; give the task another name, "
                "or another --output"
            )
        check_folder(task, path.parent, cfg, cfg.SEED + trial, job.weights, sha256)


def check_pretraining_folder(
    job: Job, cfg: CfgNode, check_same: Callable[[str, str, Path], None]
) -> None:
    """Raises InputError for a checkpoint of another config.

    Args:
        check_same: `pretrain.engine.state.check_same_config`.
    """
    file = job.output / CONFIG_FILE
    if job.results[0].exists() and file.is_file():
        check_same(file.read_text(encoding="utf-8"), dump_yaml(cfg), job.output)


def check_weights_stay(job: Job, maker: Job) -> None:
    """Raises InputError where `job` has a record of weights that `maker` would make again."""
    done = [path for path in job.results if path.exists()]
    if done and not maker.results[0].exists():
        raise InputError(
            f"{done[0]} is of weights that {maker.name} would make anew; put {maker.results[0]} "
            "back, or take the record away"
        )
