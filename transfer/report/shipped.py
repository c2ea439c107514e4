"""Whether what ran is the protocol of its name: a record's config in, what differs out.

A file that was copied and edited keeps its name and needs no override, so that the record's own
config is compared with the one below `configs/` of this checkout, or of the installed wheel.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.config import flat, load_config, shipped_folder
from pretrain.common.errors import InputError
from transfer.classification.defaults import get_defaults
from transfer.detection.defaults import make_defaults
from transfer.report.configs import Flat, belongs_to_protocol

# Data, sizes and schedule. The other keys follow from the weights and the data, or are named by
# the column's own sha256.
COMPARED = ("DATASETS.", "INPUT.", "SOLVER.", "PROTOCOL.", "TRAIN.", "KSHOT.", "SVM.")
FOLDERS = {"classification": get_defaults, "detection": make_defaults}


def changed_keys(name: str, config: Flat | None) -> dict[str, str]:
    """KEY -> "KEY value (shipped: value)" of each key that is not the shipped config's.

    Empty where the config was not kept or none of its name is shipped. A key that only one of the
    two has is younger than the other, and no difference.
    """
    shipped = _shipped(name) if config is not None else None
    return {
        key: f"{key} {config[key]} (shipped: {value})"
        for key, value in sorted((shipped or {}).items())
        if key.startswith(COMPARED)
        and belongs_to_protocol(key)
        and key in config
        and config[key] != value
        and key not in left_open(name)
    }


def left_open(name: str) -> set[str]:
    """The data sets that the shipped config of that name leaves to its user."""
    shipped = _shipped(name) or {}
    return {key for key, value in shipped.items() if key.startswith("DATASETS.") and value == ""}


@cache
def _shipped(name: str) -> Flat | None:
    for folder, defaults in FOLDERS.items():
        for path in sorted((shipped_folder("configs") / folder).rglob("*.yaml")):
            if path.stem == name:
                return _read(path, defaults)
    return None


def _read(path: Path, defaults: Callable[[], CfgNode]) -> Flat | None:
    try:
        return flat(load_config(str(path), defaults()))
    except InputError:  # edited in this checkout: nothing to compare with
        return None
