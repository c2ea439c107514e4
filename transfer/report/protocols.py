"""Columns: the records of each protocol in, `Protocol`s out, with how they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transfer.report.configs import (
    Recorded,
    difference,
    learning_rate,
    may_belong,
    read_config,
)
from transfer.report.published import published_rows
from transfer.report.results import Protocol
from transfer.report.shipped import changed_keys, is_users_task, left_to_user
from transfer.results.own_data import task_name
from transfer.results.read_records import Entry

# In the table's order
TASKS = ("knn", "linear", "linear_crops", "kshot", "svm", "svm_lowshot", "finetune")
TASKS += ("detection", "segmentation", "semantic")


def make_protocols(
    members: Mapping[tuple[str, ...], Sequence[Entry]], notes: list[str]
) -> list[Protocol]:
    """Columns in the table's order.

    members: (task, data set, config, engine, config's sha256) -> its records.
    """
    absent: list[Path] = []
    configs = {key: read_config(entries, notes, absent) for key, entries in members.items()}
    if absent:
        count = "a file" if len(absent) == 1 else f"{len(absent)} files"
        notes.append(f"config: {count} named by records not found, such as {absent[0]}")
    protocols = []
    # What all records of each were run with, so that the header can say how two columns differ
    given = {key: _common_overrides(entries) for key, entries in members.items()}
    for key, entries in members.items():
        task, dataset, name, engine, sha = key
        overrides = given[key]
        label = _label(key, given, configs[key])
        config, files = configs[key], [e.artifact("lr_sweep") for e in entries]
        rate = learning_rate(task, config, [file for file in files if file])
        changed = _changed(task, name, overrides, config)
        cut = changed or any(entry.record["status"] == "shortened" for entry in entries)
        printed = () if cut or rate == "swept lr" else tuple(published_rows(name))
        label += f", {rate}" if rate else ""
        protocols.append(
            Protocol(
                key=key,
                task=task,
                dataset=dataset,
                name=name,
                engine=engine,
                config_sha256=sha,
                overrides=overrides,
                label=label,
                rate=rate,
                published=printed,
                changed=changed,
                config_known=config is not None,
            )
        )
    protocols = [replace(p, differs=_differs(p, protocols, configs)) for p in protocols]
    ranks = {task: rank for rank, task in enumerate(TASKS)}
    return sorted(protocols, key=lambda p: (ranks.get(p.task, len(TASKS)), p.task, *p.key[1:]))


def _label(
    key: tuple[str, ...],
    given: Mapping[tuple[str, ...], Sequence[str]],
    config: Recorded | None,
) -> str:
    """The column's title, with what tells it from others of that title, by their overrides."""
    task, dataset, name, engine, sha = key
    title = _title(dataset, name)
    same = [k for k in given if k[0] == task and (k[2], _title(k[1], k[2])) == (name, title)]
    here = [other for other in same if other[1] == dataset]
    parts = [dataset] if len(here) < len(same) else []
    if len({other[3] for other in here}) > 1:
        parts.append(engine)
    if len({other[4] for other in here}) > 1:
        pairs = [pair for pair in given[key] if may_belong(task, pair.split()[0], config)]
        # Data that all of them name was the user's to give: it tells none from the others
        data = {pair for pair in pairs if pair.split()[0] in left_to_user(name)}
        data = {pair for pair in data if all(pair in given[other] for other in here)}
        shown = " ".join(pair for pair in pairs if pair not in data)
        parts.append(f"{shown or 'as shipped'}, config {sha[:7]}")
    return f"{title} [{'; '.join(parts)}]" if parts else title


def _title(dataset: str, name: str) -> str:
    """The config's name; with the user's data before it if the config has none of its own."""
    return f"{task_name(dataset)} ({name})" if is_users_task(name) else name


def _differs(
    protocol: Protocol, others: list[Protocol], configs: dict[tuple, Recorded | None]
) -> tuple[str, ...]:
    """How it differs from each other column of the same task and data set, by config key."""
    lines = []
    for other in others:
        if other.key[:2] != protocol.key[:2] or other is protocol:
            continue
        mine, theirs = configs[protocol.key], configs[other.key]
        if protocol.config_sha256 == other.config_sha256:
            found = []
        elif mine is None or theirs is None:
            found = ["a config was not kept, so that the keys are not known"]
        else:
            found = difference(mine, theirs)
        if other.engine != protocol.engine:
            found = [f"engine {protocol.engine} / {other.engine}", *found]
        lines.append(f"differs from {other.label}: {'; '.join(found) or 'no key'}")
    return tuple(lines)


def _changed(
    task: str, name: str, overrides: Sequence[str], config: Recorded | None
) -> tuple[str, ...]:
    """What is not the config's own protocol: overrides, and keys of an edited copy of the file."""
    named = {pair.split()[0]: pair for pair in overrides}
    asked = left_to_user(name)
    given = [p for key, p in named.items() if may_belong(task, key, config) and key not in asked]
    edited = changed_keys(name, config)
    return (*given, *(line for key, line in edited.items() if key not in named))


def _common_overrides(entries: Iterable[Entry]) -> tuple[str, ...]:
    """KEY VALUE pairs that all the records share, in the order of the first."""
    lists = [_pairs(entry.record["protocol"]["overrides"]) for entry in entries]
    return tuple(pair for pair in lists[0] if all(pair in other for other in lists))


def _pairs(words: Sequence[str]) -> list[str]:
    """ "KEY VALUE" texts; some records hold them as such, some as alternating words."""
    if words and " " in words[0]:  # a key has no space
        return list(words)
    return [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
