"""Checks that what is in a trial's folder belongs to the requested run; the only place that does.

An existing record counts as the result, and an existing checkpoint is continued. From another
config or from other weights, either would be reported under the wrong name. The commands ask before
they start, and a suite asks for all of its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import check_no_differences, differences, flat
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.data.fingerprint import Fingerprint
from transfer.checkpoints.files import RANDOM
from transfer.results.data_of_records import how_they_differ, known_data
from transfer.results.record import FILE_NAME, read_record
from transfer.trials.data import read_data
from transfer.trials.task import CONFIG_FILE, DATA_FILE, WEIGHTS_FILE, Job, Task

SHOWN = 12  # digits of a sha256 in a message


def check_trial_folders(task: Task[Any], job: Job[Any]) -> None:
    """Reads the weights, and compares with them and with the job what is in the trials' folders.

    Weights that are RANDOM are drawn by each trial from its own seed.

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
    """Raises InputError for a record or a checkpoint of another config, seed, other data or other
    weights.

    Args:
        cfg: of the run; what the data and the weights decide may be missing in it.
        source: of the weights.
        sha256: of the weights; None: not known.
        identity: of the protocol, where the data has been opened; compared with a record's.
        data: fingerprints of both splits; None: the data has not been opened.
    """
    if not _is_begun(task, folder):
        return
    record = read_record(folder / FILE_NAME) if (folder / FILE_NAME).exists() else None
    if (folder / CONFIG_FILE).is_file():
        old = task.read_config(folder / CONFIG_FILE)
        # A record knows its seed; an older config of classification has that of the first trial.
        then = old.SEED if record is None else record["seed"]
        keys = task.untrained if source == RANDOM else ()
        found = differences(
            _compared(task, old, then, keys), _compared(task, task.decided(cfg, old), seed, keys)
        )
        trained = next(folder.glob("model_final.pth"), None)
        further = f"--weights {trained} goes on from its detector" if trained else ""
        check_no_differences(found, f"{folder} holds a run of", further)
    if data is not None:
        _check_data(folder, record, data)
    if record is not None and identity not in (None, record["protocol"]["config_sha256"]):
        raise InputError(
            f"{folder} holds a run of another config or other data, by its identity; take the same "
            "ones, or another --output"
        )
    before = _weights_of(folder, record)
    if sha256 is not None and before not in (None, sha256):
        raise InputError(
            f"{folder} holds a run of other weights ({before[:SHOWN]} then, {sha256[:SHOWN]} now); "
            "take the same ones, or another --output"
        )


def _check_data(
    folder: Path, record: dict[str, Any] | None, data: Mapping[str, Fingerprint]
) -> None:
    """Raises InputError for a run of other data; warns of one that an older version began."""
    then = read_data(folder / DATA_FILE) or known_data((record or {}).get("data"))
    if not then:
        warn_once(
            f"{folder} does not say which data its run is of, as an older version or damage left "
            "it: it is taken up without a comparison of the data"
        )
    elif differ := how_they_differ(then, data):
        raise InputError(
            f"{folder} holds a run of other data: {differ}; restore that data, or give another "
            "--output"
        )


def _is_begun(task: Task[Any], folder: Path) -> bool:
    """Whether a command would skip the trial, or go on with it."""
    patterns = (FILE_NAME, *task.saved, *task.marks)
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _compared(task: Task[Any], cfg: CfgNode, seed: int, keys: tuple[str, ...]) -> dict[str, Any]:
    """What must be equal: the protocol's keys, the seed, and the given keys."""
    more = {key: value for key, value in flat(cfg).items() if key in keys}
    return {**task.roles.protocol(cfg), "SEED": seed, **more}


def _weights_of(folder: Path, record: dict[str, Any] | None) -> str | None:
    """The sha256 of the weights that a trial began with, if it is known."""
    if record is not None:
        return record["checkpoint"]["sha256"]
    mark = folder / WEIGHTS_FILE
    return mark.read_text(encoding="utf-8").strip() if mark.is_file() else None
