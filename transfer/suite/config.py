"""Reads and checks the entries of a suite config.

All problems of a suite are reported together, in one line each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.config import find_config
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.common.printable import shown
from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.sources import check_source

# By command of a task: the folder of its configs, and so its script (`pretrain.common.config`)
TASK_FOLDERS = {"det": "detection", "cls": "classification"}
NEEDED = {
    "PRETRAIN": ("name", "config"),
    "CHECKPOINTS": ("name", "weights"),
    "TASKS": ("name", "command", "config"),
}
OPTIONAL = {
    "PRETRAIN": ("overrides",),
    "CHECKPOINTS": (),
    "TASKS": ("overrides", "trials", "checkpoints", "head"),
}
MOST_LINES = 50  # most lines that are reported about one suite
RESERVED = ("pretrain", "convert", "logs", "report")  # folders and job names of the suite's own

Entry = dict[str, Any]


class Problems(InputError):
    """Reports several problems at once, in one line each."""

    @property
    def lines(self) -> tuple[str, ...]:
        """Returns the lines, one per problem."""
        return self.args


class Collector:
    """Collects InputErrors, each with the name of its subject, to raise them together."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def about(self, name: str = "") -> Iterator[None]:
        """Collects an InputError of the block, as "NAME: message"."""
        try:
            yield
        except InputError as error:
            for text in error.args:
                line = f"{name}: {text}" if name else str(text)
                if line not in self.lines:
                    self.lines.append(line)

    def close(self) -> None:
        """Raises what was gathered, if anything was; if there are very many lines, their number."""
        if len(self.lines) > MOST_LINES:
            more = f"{len(self.lines) - MOST_LINES} more such lines are not shown"
            raise Problems(*self.lines[:MOST_LINES], more)
        if self.lines:
            raise Problems(*self.lines)


def read_entries(
    cfg: CfgNode, given: Mapping[str, str]
) -> tuple[list[Entry], dict[str, str], list[Entry]]:
    """Returns PRETRAIN, weights by name (CHECKPOINTS, then `given`), and TASKS.

    Raises:
        Problems: an entry lacks a key or has an unknown one, a name is used twice, a command,
            config or checkpoint is unknown, or a checkpoint's file does not exist.
    """
    found = Collector()
    pretrain = _section(cfg, "PRETRAIN", _check_pretrain, found)
    listed = _section(cfg, "CHECKPOINTS", lambda entry: None, found)
    tasks = _section(cfg, "TASKS", _check_task, found)
    weights = {entry["name"]: entry["weights"] for entry in listed}
    weights.update(given)
    names = [*(entry["name"] for entry in (*pretrain, *listed)), *given]
    with found.about():
        _check_names("PRETRAIN, CHECKPOINTS and --checkpoint", names)
    with found.about():
        _check_names("TASKS", [entry["name"] for entry in tasks], RESERVED)
    for name, path in weights.items():
        with found.about(f"checkpoint {name}"):
            if path != RANDOM:
                check_source(path)
    known = dict.fromkeys(names)
    for entry in tasks:
        for name in entry.get("checkpoints") or ():
            with found.about():
                find(name, known, "checkpoint", f"TASKS {entry['name']}")
        if "head" in entry:
            with found.about(f"TASKS {entry['name']}"):
                _check_head(entry, tasks, names)
    if not (known or found.lines):
        raise InputError("no checkpoint: add --checkpoint NAME=FILE, or PRETRAIN to the suite")
    found.close()
    return pretrain, weights, tasks


def _section(
    cfg: CfgNode, key: str, check: Callable[[Entry], None], found: Collector
) -> list[Entry]:
    """Returns the well-formed entries; the problems of the others are added to `found`."""
    entries = []
    for number, entry in enumerate(cfg[key]):
        with found.about():
            if isinstance(entry, str) and key == "PRETRAIN":
                entry = {"name": Path(entry).stem, "config": entry}
            _check_fields(entry, key, f"{key}[{number}]")
            check(entry)
            entries.append(entry)
    return entries


def _check_fields(entry: Any, key: str, where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be a mapping, got {entry!r}")
    for field in entry:
        if not isinstance(field, str):
            raise InputError(f"{where}: a field's name must be a text, got {shown(field)}")
    for field in NEEDED[key]:
        if field not in entry:
            raise InputError(f"{where} lacks '{field}'; it has {sorted(entry)}")
        if not isinstance(entry[field], str):
            raise InputError(f"{where}: {field} must be a text, got {entry[field]!r}")
    for field in entry:
        find(field, dict.fromkeys(NEEDED[key] + OPTIONAL[key]), "field", where)
    if not isinstance(entry.get("head", ""), str):
        raise InputError(f"{where}: head must be the name of a task, got {entry['head']!r}")
    for field in ("overrides", "checkpoints"):
        if not isinstance(entry.get(field, []), list):
            raise InputError(f"{where}: {field} must be a list, got {entry[field]!r}")


def _check_pretrain(entry: Entry) -> None:
    find_config(entry["config"], "pretrain")


def _check_task(entry: Entry) -> None:
    folder = find(entry["command"], TASK_FOLDERS, "command", f"TASKS {entry['name']}")
    find_config(entry["config"], folder)
    trials = entry.get("trials", 1)
    if type(trials) is not int or trials < 1:
        raise InputError(f"TASKS {entry['name']}: trials must be 1 or more, got {trials!r}")


def _check_head(entry: Entry, tasks: Sequence[Entry], names: Sequence[str]) -> None:
    """Raises InputError unless the task `head` trains a head for each trial of this one."""
    known = {task["name"]: task for task in tasks if task["command"] == "cls"}
    head = find(entry["head"], known, "task that trains a head", "head")
    if entry["command"] != "cls" or "head" in head:
        raise InputError("head is for a cls task, and names a task that trains heads itself")
    if head.get("trials", 1) < entry.get("trials", 1):
        raise InputError(
            f"it has {entry.get('trials', 1)} trials, but head {head['name']} has only "
            f"{head.get('trials', 1)}; each trial scores the head of the trial of its number"
        )
    trained = head.get("checkpoints") or names
    missing = [name for name in entry.get("checkpoints") or names if name not in trained]
    if missing:
        raise InputError(
            f"head {head['name']} is not run for checkpoint {missing[0]}; give both tasks the same "
            "checkpoints"
        )


def _check_names(key: str, names: Sequence[str], reserved: Sequence[str] = ()) -> None:
    """Raises InputError for names that cannot be folders, are used twice, or are reserved."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{key}: the name {name!r} is used twice; use each name only once")
        if name in reserved or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(
                f"{key}: {name!r} cannot be the name of a folder in the suite; use letters, digits "
                f"and ._+-, but not {', '.join(RESERVED)}"
            )
