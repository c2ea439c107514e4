"""Checks, before anything starts, that the contents of a job's folder match the suite.

A job with a record counts as done, and a checkpoint is continued. Both must therefore be from the
config and the weights that the suite names now. Configs are compared as the user wrote them: no
data is opened, and values that the data, the weights and the machine decide are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import dump_yaml
from pretrain.common.errors import InputError
from pretrain.common.run_files import CONFIG
from transfer.results.record import read_record
from transfer.suite.plan import Job
from transfer.trials.earlier import check_folder
from transfer.trials.task import Task


def check_task_folder(job: Job, task: Task[Any], sha256: str | None) -> None:
    """Raises InputError for a trial of a different protocol, config, seed or weights.

    Args:
        sha256: sha256 of the weights; None: not known, or each trial draws them from its seed.
    """
    cfg = task.load_config(job.config, job.overrides)
    protocol = task.protocol_name(cfg, job.config)
    for trial, path in enumerate(job.results):
        found = read_record(path)["protocol"]["name"] if path.exists() else protocol
        if found != protocol:
            raise InputError(
                f"{path} has the protocol {found}, not {protocol}; give the task a different name, "
                "or choose another --output"
            )
        check_folder(task, path.parent, cfg, cfg.SEED + trial, job.weights, sha256)


def check_pretraining_folder(
    job: Job, cfg: CfgNode, check_same: Callable[[str, str, Path], None]
) -> None:
    """Raises InputError for a checkpoint of a different config.

    Args:
        check_same: `pretrain.engine.state.check_same_config`.
    """
    file = job.output / CONFIG
    if job.results[0].exists() and file.is_file():
        check_same(file.read_text(encoding="utf-8"), dump_yaml(cfg), job.output)


def check_weights_stay(job: Job, maker: Job) -> None:
    """Raises InputError if `job` has a record of weights that `maker` would make again."""
    done = [path for path in job.results if path.exists()]
    if done and not maker.results[0].exists():
        raise InputError(
            f"{done[0]} is from weights that {maker.name} would make again; restore "
            f"{maker.results[0]}, or remove the record"
        )
