"""Configs of protocols: the recorded config, the shipped config, and how two configs differ.

A config file that was copied and edited has the same name and needs no override. A record's config
is therefore compared with the config of that name below `configs/` of this checkout or wheel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import UNREADABLE, flat, load_config, shipped_folder
from pretrain.common.errors import InputError
from pretrain.common.printable import MOST, printable
from pretrain.common.roles import Role, Roles
from pretrain.common.safe_yaml import read_config_file
from transfer.classification.defaults import READS
from transfer.classification.defaults import ROLES as CLASSIFICATION
from transfer.detection.roles import ROLES as DETECTION
from transfer.results.own_data import SETS, left_open
from transfer.results.read_records import RecordFile

HEAD = "HEAD.RUN"
MAX_SHOWN = 8  # most keys of a difference that are shown; with more, two configs are unrelated

# Tasks without gradient steps
NO_RATE = tuple(name for name, nodes in READS.items() if "SOLVER" not in nodes)
SHIPPED_FOLDERS = {"classification": CLASSIFICATION, "detection": DETECTION}
DETECTION_TASKS = ("detection", "segmentation", "semantic")

Flat = dict[str, Any]  # for example {"SOLVER.MAX_ITER": 24000}


@dataclass(frozen=True)
class Recorded:
    """Is a protocol's config, completed with the defaults of keys that were added later."""

    cfg: CfgNode
    roles: Roles

    @cached_property
    def flat(self) -> Flat:
        """Returns all keys with their values."""
        return flat(self.cfg)

    @cached_property
    def protocol(self) -> Flat:
        """Returns the keys that belong to the protocol under this config, with their values."""
        return self.roles.protocol(self.cfg)


def recorded(content: Mapping[str, Any]) -> Recorded:
    """Returns a record's config from its parsed YAML; the keys decide which package made it."""
    roles = DETECTION if {"MODEL", "TRANSFER"} & content.keys() else CLASSIFICATION
    return Recorded(roles.completed(content), roles)


def may_belong(task: str, key: str, config: Recorded | None = None) -> bool:
    """Returns whether different values of a key can make different protocols of a task.

    config: the record's config, if it is known; it says which parts are used.
    """
    if config is not None:
        return config.roles.belongs(key, config.cfg)
    roles = DETECTION if task in DETECTION_TASKS else CLASSIFICATION
    return roles.entry(key).role is Role.PROTOCOL


def read_config(
    files: Sequence[RecordFile], notes: list[str], absent: list[Path]
) -> Recorded | None:
    """Returns the protocol's config from the first record that has one; None if none has.

    Files that records name and that do not exist are added to `absent`.
    """
    for path in filter(None, (file.artifact("config") for file in files)):
        if not path.exists():
            absent.append(path)
            continue
        try:
            content = read_config_file(path)
            if not isinstance(content, Mapping):
                raise ValueError("it is not a mapping")
            found = recorded(content)
            found.protocol  # it may raise for unexpected values
            return found
        except (*UNREADABLE, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = printable(" ".join(str(error).split()), 2 * MOST)
            notes.append(f"{path}: config ignored ({reason})")
    return None


def difference(one: Recorded, other: Recorded) -> list[str]:
    """Returns "KEY this / that" for each key of either protocol whose value differs."""
    lines = [
        printable(f"{key} {one.flat.get(key)} / {other.flat.get(key)}")
        for key in sorted({*one.protocol, *other.protocol})
        if one.flat.get(key) != other.flat.get(key)
    ]
    if len(lines) > MAX_SHOWN:
        lines[MAX_SHOWN:] = [f"and {len(lines) - MAX_SHOWN} more keys"]
    return lines


def learning_rate(task: str, config: Recorded | None, artifacts: Sequence[Path]) -> str:
    """Returns "swept lr" or "fixed lr"; "" for tasks without a rate, or if it is not known.

    artifacts: files of the first record that show it if the config was not kept.
    """
    if task in NO_RATE:
        return ""
    if config is not None:
        rates = config.flat.get("TRANSFER.LR_SWEEP.RATES")
        if rates is None:
            rates = config.flat.get("SOLVER.LR_PER_256", ())
            return "swept lr" if isinstance(rates, (list, tuple)) and len(rates) > 1 else "fixed lr"
        return "swept lr" if rates else "fixed lr"
    if any(path.name == "lr_sweep.json" for path in artifacts):
        return "swept lr"
    return ""


def changed_keys(name: str, config: Recorded | None) -> dict[str, str]:
    """Returns, for each key that differs from the shipped one, "KEY value (shipped: value)".

    It is empty if the config was not kept or no config of its name is shipped. Values that the
    shipped config leaves to the machine ("auto") or to its user do not count as changes, and
    neither does the folder of a trained head, which each checkpoint has its own of.
    """
    shipped = _shipped(name) if config is not None else None
    if config is None or shipped is None or config.roles is not shipped.roles:
        return {}
    compared = {*shipped.protocol, *config.protocol} - left_open(shipped.flat) - {HEAD}
    return {
        key: printable(f"{key} {config.flat[key]} (shipped: {shipped.flat[key]})")
        for key in sorted(compared)
        if config.flat[key] != shipped.flat[key] and shipped.flat[key] != "auto"
    }


def left_to_user(name: str) -> set[str]:
    """Returns the data keys that the shipped config of that name leaves to its user.

    A name that is not shipped belongs to the user's own config, which has no shipped data.
    """
    shipped = _shipped(name)
    return set(SETS) if shipped is None else left_open(shipped.flat)


def is_users_task(name: str) -> bool:
    """Returns whether the shipped config leaves its data to the user: then the data is the task."""
    shipped = _shipped(name)
    return bool(shipped and left_open(shipped.flat))


@cache
def _shipped(name: str) -> Recorded | None:
    for folder, roles in SHIPPED_FOLDERS.items():
        for path in sorted((shipped_folder("configs") / folder).rglob("*.yaml")):
            if path.stem == name:
                return _read(path, roles)
    return None


def _read(path: Path, roles: Roles) -> Recorded | None:
    try:
        return Recorded(load_config(str(path), roles.make_defaults()), roles)
    except InputError:  # edited in this checkout: there is nothing to compare with
        return None
