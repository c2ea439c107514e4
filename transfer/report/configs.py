"""Configs of protocols: the records' config.yaml in, how two protocols differ out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pretrain.common.config import flat
from transfer.results.store import Entry

# Where a run was, and what the weights decide: no part of a protocol (as in the packages' own
# identities, `transfer/detection/config.py` and `transfer/classification/defaults.py`)
NOT_PROTOCOL = (
    "OUTPUT_DIR SEED CACHE_DIR BACKBONE REPLICATES KNN QUALITY VERSION VIS_PERIOD "
    "MODEL.WEIGHTS MODEL.DEVICE MODEL.PIXEL_MEAN MODEL.PIXEL_STD MODEL.RESNETS.STRIDE_IN_1X1 "
    "INPUT.FORMAT DATALOADER.NUM_WORKERS DATALOADER.BATCH_SIZE DATALOADER.CHECK_IMAGES "
    "SOLVER.CHECKPOINT_PERIOD SOLVER.REFERENCE_WORLD_SIZE TRANSFER.DRAW_DETECTIONS "
    "TRANSFER.LOG_PERIOD TRANSFER.CHANNELS_LAST TRANSFER.CHECK_IMAGES TRANSFER.COCO_EVALUATOR "
    "TRANSFER.REPLICATES TRANSFER.PROTOCOL"
).split()
MAX_SHOWN = 8  # keys of a difference; more say that the two are different altogether

NO_RATE = ("knn", "svm", "svm_lowshot", "kshot")  # tasks that no gradient step trains

Flat = dict[str, Any]  # "SOLVER.MAX_ITER" -> 24000


def belongs_to_protocol(key: str) -> bool:
    """Whether a config key can make a difference to a number."""
    return not any(key == name or key.startswith(f"{name}.") for name in NOT_PROTOCOL)


def read_config(entries: Sequence[Entry], notes: list[str], absent: list[Path]) -> Flat | None:
    """The protocol's keys, from the first record that has its config; None where none has.

    `absent` grows by files that records name and that are not there.
    """
    for path in filter(None, (entry.artifact("config") for entry in entries)):
        if not path.exists():
            absent.append(path)
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping):
                raise ValueError("no mapping")
        except (OSError, ValueError, yaml.YAMLError) as error:
            notes.append(f"{path}: config left out ({' '.join(str(error).split())})")
            continue
        return {key: v for key, v in flat(content).items() if belongs_to_protocol(key)}
    return None


def difference(one: Flat, other: Flat) -> list[str]:
    """ "KEY this / that" for each key whose value differs; a key that one lacks is "absent"."""
    lines = [
        f"{key} {_show(one, key)} / {_show(other, key)}"
        for key in sorted({*one, *other})
        if one.get(key) != other.get(key) or (key in one) != (key in other)
    ]
    if len(lines) > MAX_SHOWN:
        lines[MAX_SHOWN:] = [f"and {len(lines) - MAX_SHOWN} more keys"]
    return lines


def learning_rate(task: str, config: Flat | None, artifacts: Sequence[Path]) -> str:
    """ "swept lr" or "fixed lr"; "" for tasks without one, or where it is not known.

    artifacts: files of the first record that say so where the config does not travel.
    """
    if task in NO_RATE:
        return ""
    if config is not None:
        rates = config.get("TRANSFER.LR_SWEEP.RATES")
        if rates is None:
            rates = config.get("SOLVER.LR_PER_256", ())
            return "swept lr" if isinstance(rates, (list, tuple)) and len(rates) > 1 else "fixed lr"
        return "swept lr" if rates else "fixed lr"
    if any(path.name == "lr_sweep.json" for path in artifacts):
        return "swept lr"
    return ""


def _show(config: Flat, key: str) -> str:
    return str(config[key]) if key in config else "absent"
