"""Checks that the contents of a trial's folder belong to the requested run; only this module does.

An existing record counts as the result, and an existing checkpoint is continued. If it came from a
different config or different weights, it would be reported under the wrong name. The commands check
this before they start, and a suite checks it for all of its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import check_no_differences, differences, flat
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.common.run_files import CONFIG, RECORD, WEIGHTS_FILE
from pretrain.data.fingerprint import Fingerprint
from transfer.checkpoints.files import RANDOM
from transfer.results.data_of_records import how_they_differ, known_data
from transfer.results.record import read_record
from transfer.trials.data import read_data
from transfer.trials.task import DATA_FILE, Job, Task

SHOWN = 12  # digits of a sha256 in a message


def check_trial_folders(task: Task[Any], job: Job[Any]) -> None:
    """Reads the weights, and compares them and the job with the contents of the trials' folders.

    Each trial draws RANDOM weights from its own seed.

    Raises:
        InputError: see `check_folder` and `Task.read_weights`.
    """
    source, weights = job.request.weights, None
    for number, folder in job.request.folders().items():
        seed = job.cfg.SEED + number
        if weights is None or (source == RANDOM and _is_begun(task, folder)):
            weights = task.read_weights(job, seed)
        check_folder(
            task,
            folder,
            job.cfg,
            seed,
            source,
            weights.sha256,
            identity=task.identity(job),
            data=job.data.known if _is_begun(task, folder) else None,
        )


def check_folder(
    task: Task[Any],
    folder: Path,
    cfg: CfgNode,
    seed: int,
    source: str,
    sha256: str | None,
    *,
    identity: str | None = None,
    data: Mapping[str, Fingerprint] | None = None,
) -> None:
    """Checks that a record or a checkpoint in a trial's folder belongs to this run.

    Args:
        cfg: config of the run; values that the data and the weights decide may be missing in it.
        source: source of the weights.
        sha256: sha256 of the weights; None: not known.
        identity: identity of the protocol, to compare with a record's; None: the data has not been
            opened.
        data: fingerprints of both splits; None: the data has not been opened.

    Raises:
        InputError: the config, the seed, the data or the weights differ.
    """
    if not _is_begun(task, folder):
        return
    record = read_record(folder / RECORD) if (folder / RECORD).exists() else None
    if (folder / CONFIG).is_file():
        old = task.read_config(folder / CONFIG)
        # A record has its trial's seed; an older classification config has the first trial's seed.
        then = old.SEED if record is None else record["seed"]
        keys = task.untrained if source == RANDOM else ()
        found = differences(
            _compared(task, old, then, keys), _compared(task, task.decided(cfg, old), seed, keys)
        )
        trained = next(folder.glob("model_final.pth"), None)
        further = f"--weights {trained} starts from its trained detector" if trained else ""
        check_no_differences(found, f"{folder} holds a run of", further)
    if data is not None:
        _check_data(folder, record, data)
    if record is not None and identity not in (None, record["protocol"]["config_sha256"]):
        raise InputError(
            f"{folder} holds a run with a different config or different data (the sha256 of its "
            "protocol differs); use the same config and data, or choose another --output"
        )
    before = _weights_of(folder, record)
    if sha256 is not None and before not in (None, sha256):
        raise InputError(
            f"{folder} holds a run of different weights ({before[:SHOWN]} then, {sha256[:SHOWN]} "
            "now); use the same weights, or choose another --output"
        )


def _check_data(
    folder: Path, record: dict[str, Any] | None, data: Mapping[str, Fingerprint]
) -> None:
    """Raises InputError for a run on different data; warns if the run's data is not known."""
    then = read_data(folder / DATA_FILE) or known_data((record or {}).get("data"))
    if not then:
        warn_once(
            f"{folder} does not say which data its run uses (an older version wrote it, or it is "
            "damaged): the run continues without a comparison of the data"
        )
    elif differ := how_they_differ(then, data):
        raise InputError(
            f"{folder} holds a run of different data: {differ}; restore that data, or choose "
            "another --output"
        )


def _is_begun(task: Task[Any], folder: Path) -> bool:
    """Returns whether a command would skip the trial or continue it."""
    patterns = (RECORD, *task.saved, *task.marks)
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _compared(task: Task[Any], cfg: CfgNode, seed: int, keys: tuple[str, ...]) -> dict[str, Any]:
    """Returns what must be equal: the protocol's keys, the seed, and the given keys."""
    more = {key: value for key, value in flat(cfg).items() if key in keys}
    return {**task.roles.protocol(cfg), "SEED": seed, **more}


def _weights_of(folder: Path, record: dict[str, Any] | None) -> str | None:
    """Returns the sha256 of the weights that a trial started from, if it is known."""
    if record is not None:
        return record["checkpoint"]["sha256"]
    mark = folder / WEIGHTS_FILE
    return mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
