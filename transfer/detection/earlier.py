"""Whether what lies in a trial's folder is of the run that is asked for: a folder in, or an error.

A record that is there is taken for the result, and a checkpoint is trained on: of another config or
of other weights, either would stand under a name that is not its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.config import check_no_differences, differences
from pretrain.common.errors import InputError
from transfer.checkpoints.read import RANDOM
from transfer.checkpoints.weights import Weights
from transfer.detection.config import changed, load_merged
from transfer.detection.engine import CONFIG_FILE
from transfer.detection.lr_sweep import FILE_NAME as SWEEP_FILE
from transfer.detection.roles import ROLES
from transfer.results.record import FILE_NAME, read_record
from transfer.training.files import MODEL_FILE, last_checkpoint

WEIGHTS_FILE = "weights.sha256"  # of what the trial began with


def check_trials_there(
    cfg: CfgNode, source: str, folders: dict[int, Path], read: Callable[[int], Weights]
) -> None:
    """Reads the weights, and compares with them and with `cfg` what lies in trials' folders.

    Args:
        source: of the weights; those that are RANDOM are drawn anew for each trial.
        folders: by the trials' numbers.
        read: seed -> weights.

    Raises:
        InputError: see `check_folder`, and whatever `read` raises.
    """
    weights = None
    for number, folder in folders.items():
        seed = cfg.SEED + number
        if weights is None or (source == RANDOM and _is_begun(folder)):
            weights = read(seed)
        check_folder(folder, cfg, seed, weights.sha256)


def check_folder(folder: Path, cfg: CfgNode, seed: int, sha256: str | None) -> None:
    """Raises InputError for a record or a checkpoint of another config, seed or other weights.

    Args:
        cfg: of the run; what the data and the weights decide may be missing in it.
        sha256: of the weights; None: not known.
    """
    if not _is_begun(folder):
        return
    file, record = folder / CONFIG_FILE, folder / FILE_NAME
    if file.is_file():
        old = load_merged(str(file))
        decided = {"TRANSFER.INIT": old.TRANSFER.INIT} if cfg.TRANSFER.INIT == "auto" else {}
        before, now = ROLES.protocol(old), ROLES.protocol(changed(cfg, decided))
        found = differences({**before, "SEED": old.SEED}, {**now, "SEED": seed})
        trained = folder / MODEL_FILE
        further = f"--weights {trained} goes on from its detector" if trained.is_file() else ""
        check_no_differences(found, f"{folder} holds a run of", further)
    if sha256 is None:
        return
    mark = folder / WEIGHTS_FILE
    if record.exists():
        before = read_record(record)["checkpoint"]["sha256"]
    else:
        before = mark.read_text(encoding="utf-8").strip() if mark.is_file() else sha256
    if before != sha256:
        raise InputError(
            f"{folder} holds a run of other weights ({before[:12]} then, {sha256[:12]} now); take "
            "the same ones, or another --output"
        )


def _is_begun(folder: Path) -> bool:
    """Whether a command would skip the trial, or go on with it."""
    files = (folder / FILE_NAME, folder / SWEEP_FILE)
    return any(file.exists() for file in files) or last_checkpoint(folder) is not None
