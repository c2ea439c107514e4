"""Records to tables: store entries in, checkpoints x protocols x metrics out.

A column belongs to one protocol: task, data set, config (by its sha256) and engine. Records of
different protocols never meet in one cell. A row is one checkpoint; the untrained backbone is one
row whatever the seed of its weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer.results.statistics import Summary, summarize
from transfer.results.store import Entry

HEADLINES = {
    "knn": ("knn20_top1",),
    "linear": ("top1",),
    "detection": ("bbox/AP", "bbox/AP50", "segm/AP"),
    "segmentation": ("segm/AP", "bbox/AP"),
    "semantic": ("sem_seg/mIoU", "sem_seg/pACC"),
}
_METRIC_ORDER = ("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75")
_TASK_ORDER = ("knn", "linear", "detection", "segmentation", "semantic")


@dataclass(frozen=True)
class Checkpoint:
    """A row. Costs are the pretraining's, None where unknown."""

    key: tuple[str, str]
    label: str
    sha256: str
    method: str | None
    backbone: str
    untrained: bool
    epochs: float | None
    seconds: float | None
    gpu_seconds: float | None
    views: int | None


@dataclass(frozen=True)
class Protocol:
    """A group of columns."""

    key: tuple[str, ...]
    task: str
    dataset: str
    name: str
    engine: str
    config_sha256: str
    overrides: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Cell:
    """One checkpoint under one protocol."""

    summaries: dict[str, Summary]
    values: dict[str, list[float]]  # in the order of trials
    seconds: float  # mean per trial
    gpu_seconds: float
    views: float
    shortened: bool
    entries: list[Entry] = field(repr=False)


@dataclass(frozen=True)
class Results:
    """Everything that the report shows in numbers."""

    checkpoints: list[Checkpoint]
    protocols: list[Protocol]
    metrics: dict[tuple[str, ...], list[str]]  # of each protocol, by its key
    cells: dict[tuple[tuple[str, str], tuple[str, ...]], Cell]
    notes: list[str]

    def cell(self, checkpoint: Checkpoint, protocol: Protocol) -> Cell | None:
        """The cell, or None where nothing was run."""
        return self.cells.get((checkpoint.key, protocol.key))

    def headlines(self) -> list[tuple[Protocol, str]]:
        """The columns of the main table: the metrics that papers print, by protocol."""
        columns = []
        for protocol in self.protocols:
            known = self.metrics[protocol.key]
            wanted = [m for m in HEADLINES.get(protocol.task, ()) if m in known]
            columns += [(protocol, metric) for metric in wanted or known[:1]]
        return columns

    def transfer_seconds(self, checkpoint: Checkpoint) -> float:
        """Seconds of all protocols, one trial of each (the mean over trials)."""
        return math.fsum(
            cell.seconds for (key, _), cell in self.cells.items() if key == checkpoint.key
        )


def build_results(entries: Sequence[Entry]) -> Results:
    """Groups records; failed runs are named in the notes and enter no number."""
    failed = [entry for entry in entries if entry.record["status"] == "failed"]
    groups: dict[tuple, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.record["status"] != "failed":
            groups[_checkpoint_key(entry.record), _protocol_key(entry.record)].append(entry)
    cells = {key: _cell(members) for key, members in groups.items()}
    checkpoints = _checkpoints(groups)
    protocols = _protocols(groups)
    metrics = {
        protocol.key: _sorted_metrics(
            metric
            for (_, key), cell in cells.items()
            if key == protocol.key
            for metric in cell.summaries
        )
        for protocol in protocols
    }
    notes = [f"{entry.path}: the run failed; left out" for entry in failed]
    if any(cell.shortened for cell in cells.values()):
        notes.append("† shortened: the protocol was cut to fit a budget; see the runs below")
    return Results(checkpoints, protocols, metrics, cells, notes)


def _checkpoint_key(record: dict[str, Any]) -> tuple[str, str]:
    checkpoint = record["checkpoint"]
    return checkpoint["name"], "random" if _untrained(checkpoint) else checkpoint["sha256"]


def _untrained(checkpoint: dict[str, Any]) -> bool:
    return "random" in (checkpoint["source"], checkpoint["method"])


def _protocol_key(record: dict[str, Any]) -> tuple[str, ...]:
    protocol = record["protocol"]
    return (
        record["task"],
        record["dataset"],
        protocol["name"],
        protocol["engine"],
        protocol["config_sha256"],
    )


def _cell(entries: list[Entry]) -> Cell:
    entries = sorted(entries, key=lambda entry: (entry.record["trial"], entry.record["seed"]))
    records = [entry.record for entry in entries]
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for metric, value in record["metrics"].items():
            if value is not None:
                values[metric].append(value)
    return Cell(
        summaries={metric: summarize(numbers) for metric, numbers in values.items()},
        values=dict(values),
        seconds=math.fsum(record["seconds"] for record in records) / len(records),
        gpu_seconds=math.fsum(record["gpu_seconds"] for record in records) / len(records),
        views=math.fsum(record["views_seen"] for record in records) / len(records),
        shortened=any(record["status"] == "shortened" for record in records),
        entries=entries,
    )


def _checkpoints(groups: dict[tuple, list[Entry]]) -> list[Checkpoint]:
    """Rows: untrained, then supervised, then the others, each by name."""
    facts = {key: members[0].record["checkpoint"] for (key, _), members in groups.items()}
    names = [name for name, _ in facts]
    rows = []
    for key, fact in facts.items():
        label = key[0] if names.count(key[0]) == 1 else f"{key[0]} ({fact['sha256'][:7]})"
        rows.append(
            Checkpoint(
                key=key,
                label=label,
                sha256=fact["sha256"],
                method=fact["method"],
                backbone=fact["backbone"],
                untrained=_untrained(fact),
                epochs=fact["pretrain_epochs"],
                seconds=fact["pretrain_seconds"],
                gpu_seconds=fact["pretrain_gpu_seconds"],
                views=fact["pretrain_views"],
            )
        )
    kind = {True: 0, False: 2}
    return sorted(
        rows, key=lambda row: (1 if row.method == "supervised" else kind[row.untrained], row.label)
    )


def _protocols(groups: dict[tuple, list[Entry]]) -> list[Protocol]:
    members: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for (_, key), entries in groups.items():
        members[key] += entries
    short = [key[:3] for key in members]
    protocols = []
    for key, entries in members.items():
        task, dataset, name, engine, sha = key
        # What all its records were run with, so that the header can say how two columns differ
        overrides = _common_overrides(entries)
        label = name
        if short.count(key[:3]) > 1:
            label += f" [{' '.join(overrides) or 'as shipped'}; {engine}, config {sha[:7]}]"
        protocols.append(Protocol(key, task, dataset, name, engine, sha, overrides, label))
    return sorted(protocols, key=lambda p: (_rank(p.task, _TASK_ORDER), p.task, *p.key[1:]))


def _common_overrides(entries: Iterable[Entry]) -> tuple[str, ...]:
    """KEY VALUE pairs that all the records share, in the order of the first."""
    lists = [_pairs(entry.record["protocol"]["overrides"]) for entry in entries]
    return tuple(pair for pair in lists[0] if all(pair in other for other in lists))


def _pairs(words: Sequence[str]) -> list[str]:
    return [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]


def _sorted_metrics(names: Iterable[str]) -> list[str]:
    """Accuracies first; features/* are statistics beside them, never a headline."""

    def place(name: str) -> tuple:
        return name.startswith("features/"), _rank(name, _METRIC_ORDER), _natural(name)

    return sorted(set(names), key=place)


def _rank(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _natural(name: str) -> tuple:
    """knn20_top1 after knn10_top1 and before knn100_top1, top1 of all k before top5."""
    head, _, tail = name.rpartition("_")
    digits = "".join(c for c in head if c.isdigit())
    return tail, int(digits or 0), name
