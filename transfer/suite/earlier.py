"""Whether what lies in a job's folder is of what the suite asks for now: before anything starts.

A record counts as done and a checkpoint is trained on, so that either must be of the config and the
weights that stand in the suite now. Configs are compared as they were asked for: no data is opened,
and what the data, the weights and the machine have decided is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import check_no_differences, differences, dump_yaml, flat, load_config
from pretrain.common.errors import InputError
from transfer.classification.defaults import ROLES, get_defaults
from transfer.detection.earlier import CONFIG_FILE, check_folder
from transfer.results.record import read_record
from transfer.suite.config import RANDOM
from transfer.suite.plan import Job


def check_task_folder(job: Job, cfg: CfgNode, protocol: str, sha256: str | None) -> None:
    """Raises InputError for a trial of another protocol, config, seed, or of other weights.

    Args:
        cfg: the file with the overrides; protocol: its name in records.
        sha256: of the weights; None: not known, or drawn anew for each trial.
    """
    for trial, path in enumerate(job.results):
        seed = cfg.SEED + trial
        if path.exists():
            record = read_record(path)
            _check_weights(path, record["checkpoint"]["sha256"], job, sha256)
            if record["protocol"]["name"] != protocol:
                raise InputError(
                    f"{path} is of the protocol {record['protocol']['name']}, not {protocol}; give "
                    "the task another name, or another --output"
                )
            if job.kind == "cls":
                untrained = job.weights == RANDOM
                _check_classification(path.parent, cfg, (record["seed"], seed), untrained)
        if job.kind == "det":
            # Of weights a record has told already
            check_folder(path.parent, cfg, seed, None if path.exists() else sha256)


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
    """Raises InputError where `job` has a record of weights that `maker` would make anew."""
    done = [path for path in job.results if path.exists()]
    if done and not maker.results[0].exists():
        raise InputError(
            f"{done[0]} is of weights that {maker.name} would make anew; put {maker.results[0]} "
            "back, or take the record away"
        )


def _check_weights(path: Path, found: str, job: Job, sha256: str | None) -> None:
    if sha256 not in (None, found):
        raise InputError(
            f"{path} is of other weights ({found[:12]}) than {job.weights} ({sha256[:12]}); give "
            "them another name, or another --output"
        )


def _check_classification(
    folder: Path, cfg: CfgNode, seeds: tuple[int, int], untrained: bool
) -> None:
    """`seeds`: then and now, the trial's."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        return
    told: list[dict[str, Any]] = []
    for config, seed in zip((load_config(str(file), get_defaults()), cfg), seeds):
        # Untrained weights are those that BACKBONE and the seed say.
        more = {"BACKBONE.NAME": config.BACKBONE.NAME} if untrained else {}
        told.append({**ROLES.protocol(config), "SEED": seed, **more})
    old, new = told
    free = tuple(key for key, value in flat(cfg).items() if value == "auto")  # the machine's now
    check_no_differences(differences(old, new, free), f"{folder} holds a run of")
