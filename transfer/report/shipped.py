"""Whether what ran is the protocol of its name: a record's config in, what differs out.

A file that was copied and edited keeps its name and needs no override, so that the record's own
config is compared with the one below `configs/` of this checkout, or of the installed wheel.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pretrain.common.config import load_config, shipped_folder
from pretrain.common.errors import InputError
from pretrain.common.roles import Roles
from transfer.classification.defaults import ROLES as CLASSIFICATION
from transfer.detection.roles import ROLES as DETECTION
from transfer.report.configs import Recorded
from transfer.results.own_data import SETS, left_open

FOLDERS = {"classification": CLASSIFICATION, "detection": DETECTION}


def changed_keys(name: str, config: Recorded | None) -> dict[str, str]:
    """KEY -> "KEY value (shipped: value)" of each key that is not the shipped config's.

    Empty if the config was not kept or none of its name is shipped. What the shipped config leaves
    to the machine ("auto") or to its user is not a change.
    """
    shipped = _shipped(name) if config is not None else None
    if config is None or shipped is None or config.roles is not shipped.roles:
        return {}
    compared = {*shipped.protocol, *config.protocol} - left_open(shipped.flat)
    return {
        key: f"{key} {config.flat[key]} (shipped: {shipped.flat[key]})"
        for key in sorted(compared)
        if config.flat[key] != shipped.flat[key] and shipped.flat[key] != "auto"
    }


def left_to_user(name: str) -> set[str]:
    """The keys of the data that the shipped config of that name leaves to its user.

    A name that is not shipped, of a config of the user's own, claims no shipped data.
    """
    shipped = _shipped(name)
    return set(SETS) if shipped is None else left_open(shipped.flat)


def is_users_task(name: str) -> bool:
    """Whether the shipped config of that name leaves its data open: then the data is the task."""
    shipped = _shipped(name)
    return bool(shipped and left_open(shipped.flat))


@cache
def _shipped(name: str) -> Recorded | None:
    for folder, roles in FOLDERS.items():
        for path in sorted((shipped_folder("configs") / folder).rglob("*.yaml")):
            if path.stem == name:
                return _read(path, roles)
    return None


def _read(path: Path, roles: Roles) -> Recorded | None:
    try:
        return Recorded(load_config(str(path), roles.make_defaults()), roles)
    except InputError:  # edited in this checkout: nothing to compare with
        return None
