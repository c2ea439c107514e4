"""Data that a shipped config leaves to its user: setting it does not count as a changed config.

Such configs are `configs/*/own_*.yaml` and others without data. This module says which of their
keys the user sets, and how a report names the task after the user's data.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SETS = ("DATASETS.TRAIN", "DATASETS.TEST")
# Keys that depend on the user's detection set: its classes and their number.
FOLLOWING = (
    "TRANSFER.CLASSES",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.RETINANET.NUM_CLASSES",
)


def left_open(shipped: Mapping[str, Any]) -> set[str]:
    """Returns the keys of a shipped config, {"A.B": value}, that its user must set."""
    found = {key for key in SETS if key in shipped and not shipped[key]}
    return found | set(FOLLOWING) if found else found


def task_name(dataset: str) -> str:
    """Returns a short name of the data set.

    It is the folder of `voc:FOLDER:SPLIT`, `coco:FOLDER:SPLIT` and `folder:FOLDER[:SPLIT]`, the
    file of `coco:FILE.json:IMAGES`, and otherwise the name itself.
    """
    kind, _, rest = dataset.partition(":")
    if kind not in ("voc", "coco", "folder") or not rest:
        return dataset
    place = rest.rpartition(":")[0] or rest
    path = Path(place)
    return (path.stem if path.suffix.lower() == ".json" else path.name) or dataset
