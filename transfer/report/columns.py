"""The columns of the table: protocols with their labels, differences and published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pretrain.common.printable import printable
from transfer.report.configs import (
    Recorded,
    changed_keys,
    difference,
    is_users_task,
    learning_rate,
    left_to_user,
    may_belong,
    read_config,
)
from transfer.report.published import published_rows
from transfer.report.rows_columns_cells import Protocol
from transfer.results.data_of_records import how_they_differ, known_data
from transfer.results.group import ProtocolKey
from transfer.results.own_data import task_name
from transfer.results.read_records import RecordFile

# In the table's order
TASKS = (
    *("knn", "linear", "robustness", "logistic", "linear_crops", "kshot", "svm", "svm_lowshot"),
    "finetune",
    *("detection", "segmentation", "semantic"),
)


def make_protocols(
    members: Mapping[ProtocolKey, Sequence[RecordFile]], notes: list[str]
) -> list[Protocol]:
    """Returns the columns in the table's order, from the records of each protocol."""
    absent: list[Path] = []
    configs = {key: read_config(files, notes, absent) for key, files in members.items()}
    if absent:
        count = "a file" if len(absent) == 1 else f"{len(absent)} files"
        notes.append(f"config: {count} named by records not found, such as {absent[0]}")
    protocols = []
    # Overrides of all records of each protocol, for the header's text on how two columns differ
    given = {key: _common_overrides(files) for key, files in members.items()}
    for key, files in members.items():
        config = configs[key]
        sweeps = [path for file in files if (path := file.artifact("lr_sweep"))]
        rate = learning_rate(key.task, config, sweeps)
        changed = _changed(key, given[key], config)
        cut = changed or any(file.record["status"] == "shortened" for file in files)
        printed = () if cut or rate == "swept lr" else tuple(published_rows(key.name))
        label, short = (
            text + (f", {rate}" if rate else "") for text in _labels(key, given, config)
        )
        protocols.append(
            Protocol(
                key=key,
                **key._asdict(),
                overrides=given[key],
                label=label,
                short=short,
                rate=rate,
                published=printed,
                changed=changed,
                config_known=config is not None,
                fingerprints=known_data(files[0].record.get("data")),
            )
        )
    protocols = [replace(p, differs=_differs(p, protocols, configs)) for p in protocols]
    ranks = {task: rank for rank, task in enumerate(TASKS)}
    return sorted(protocols, key=lambda p: (ranks.get(p.task, len(TASKS)), p.key))


def _labels(
    key: ProtocolKey, given: Mapping[ProtocolKey, Sequence[str]], config: Recorded | None
) -> tuple[str, str]:
    """Returns the column's title with the overrides that distinguish it from others, and without.

    The short one is distinct as well: the config's sha256 takes the place of the overrides.
    """
    title = _title(key)
    same = [k for k in given if (k.task, k.name, _title(k)) == (key.task, key.name, title)]
    here = [other for other in same if other.dataset == key.dataset]
    # The parts of the title, and of the short one
    parts = [(key.dataset, key.dataset)] if len(here) < len(same) else []
    if len({other.engine for other in here}) > 1:
        parts.append((key.engine, key.engine))
    if len({other.config_sha256 for other in here}) > 1:
        pairs = [pair for pair in given[key] if may_belong(key.task, pair.split()[0], config)]
        # The user had to set data that all of them name: it does not distinguish the columns
        data = {pair for pair in pairs if pair.split()[0] in left_to_user(key.name)}
        data = {pair for pair in data if all(pair in given[other] for other in here)}
        shown = printable(" ".join(pair for pair in pairs if pair not in data))
        digest = f"config {key.config_sha256[:7]}"
        shipped = f"as shipped, {digest}"
        parts.append((f"{shown}, {digest}", digest) if shown else (shipped, shipped))
    alike = [other for other in here if other._replace(data=key.data) == key]
    if len(alike) > 1:
        data_of = f"data {key.data[:7] or 'unknown'}"
        parts.append((data_of, data_of))
    if not parts:
        return title, title
    label, short = (f"{title} [{'; '.join(words)}]" for words in zip(*parts))
    return label, short


def _title(key: ProtocolKey) -> str:
    """Returns the config's name; with the user's data before it if the config names no data."""
    return f"{task_name(key.dataset)} ({key.name})" if is_users_task(key.name) else key.name


def _differs(
    protocol: Protocol, others: list[Protocol], configs: Mapping[ProtocolKey, Recorded | None]
) -> tuple[str, ...]:
    """Returns how a column differs from each other column of the same task and data set."""
    lines = []
    for other in others:
        same_data = (other.task, other.dataset) == (protocol.task, protocol.dataset)
        if other is protocol or not same_data:
            continue
        mine, theirs = configs[protocol.key], configs[other.key]
        if protocol.config_sha256 == other.config_sha256:
            found: list[str] = []
        elif mine is None or theirs is None:
            found = ["a config was not kept, so the different keys are not known"]
        else:
            found = difference(mine, theirs)
        if other.data != protocol.data:
            how = how_they_differ(protocol.fingerprints, other.fingerprints, ("here", "there"))
            found = [how or "the data of one column is unknown", *found]
        if other.engine != protocol.engine:
            found = [f"engine {protocol.engine} / {other.engine}", *found]
        lines.append(f"differs from {other.label}: {'; '.join(found) or 'no key'}")
    return tuple(lines)


def _changed(
    key: ProtocolKey, overrides: Sequence[str], config: Recorded | None
) -> tuple[str, ...]:
    """Returns the changes from the shipped config: overrides, and keys of an edited copy."""
    named = {pair.split()[0]: pair for pair in overrides}
    asked = left_to_user(key.name)
    given = [p for k, p in named.items() if may_belong(key.task, k, config) and k not in asked]
    edited = changed_keys(key.name, config)
    return (*given, *(line for k, line in edited.items() if k not in named))


def _common_overrides(files: Iterable[RecordFile]) -> tuple[str, ...]:
    """Returns the KEY VALUE pairs that all records share, in the order of the first."""
    lists = [_pairs(file.record["protocol"]["overrides"]) for file in files]
    return tuple(pair for pair in lists[0] if all(pair in other for other in lists))


def _pairs(overrides: Sequence[str]) -> list[str]:
    """Returns "KEY VALUE" texts; classification records keys and values as separate texts."""
    if overrides and " " in overrides[0]:  # a key has no space
        return list(overrides)
    return [" ".join(overrides[i : i + 2]) for i in range(0, len(overrides), 2)]
