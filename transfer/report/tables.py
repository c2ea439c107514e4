"""Records to tables: store entries in, checkpoints x protocols x metrics out.

A column belongs to one protocol: task, data set, config (by its sha256) and engine. Records of
different protocols never meet in one cell. A row is one checkpoint, and a claim about it is of its
fine-tuning trials; the untrained backbone is one row whatever the seed of its weights. Three or
more checkpoints that differ in their pretraining's seed alone are also one row of their method.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transfer.report.configs import (
    Flat,
    belongs_to_protocol,
    difference,
    learning_rate,
    read_config,
)
from transfer.report.published import Published, published_rows
from transfer.report.samples import CERTAIN, LEAST_SEEDS, LEAST_TRIALS, pooled, samples_of
from transfer.results.comparison import Sample, not_below
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
    proof: str | None = None  # transfer.results.record.PROOFS
    seeds: int = 0  # pretraining seeds behind the row of a method; 0: one checkpoint

    @property
    def unit(self) -> str:
        """What a claim about this row is about."""
        return f"method ({self.seeds} pretraining seeds)" if self.seeds else "checkpoint"


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
    rate: str = ""  # "swept lr", "fixed lr", or "" where there is none
    differs: tuple[str, ...] = ()  # from the other protocols of its task and data, one line each
    published: tuple[Published, ...] = ()


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
    samples: dict[str, Sample] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Results:
    """Everything that the report shows in numbers."""

    checkpoints: list[Checkpoint]
    protocols: list[Protocol]
    metrics: dict[tuple[str, ...], list[str]]  # of each protocol, by its key
    cells: dict[tuple[tuple[str, str], tuple[str, ...]], Cell]
    notes: list[str]
    methods: list[Checkpoint] = field(default_factory=list)
    # (protocol's key, metric) -> keys of rows that none is resolved above; () where all are equal
    best: dict[tuple[tuple[str, ...], str], frozenset] = field(default_factory=dict)

    def is_best(self, checkpoint: Checkpoint, protocol: Protocol, metric: str) -> bool:
        """Whether the row carries the mark in this column."""
        return checkpoint.key in self.best.get((protocol.key, metric), ())

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

    def headline(self, protocol: Protocol) -> str:
        """The one metric that stands for a protocol."""
        return next(metric for p, metric in self.headlines() if p is protocol)

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
    notes = [f"{entry.path}: the run failed; left out" for entry in failed]
    cells = {key: _cell(members, notes) for key, members in groups.items()}
    checkpoints = _checkpoints(groups)
    protocols = _protocols(groups, notes)
    metrics = {
        protocol.key: _sorted_metrics(
            metric
            for (_, key), cell in cells.items()
            if key == protocol.key
            for metric in cell.summaries
        )
        for protocol in protocols
    }
    if any(cell.shortened for cell in cells.values()):
        notes.append("† shortened: the protocol was cut to fit a budget; see the runs below")
    methods = _pool_methods(groups, cells, protocols)
    results = Results(checkpoints, protocols, metrics, cells, notes, methods)
    for protocol, metric in results.headlines():
        results.best[protocol.key, metric] = _best(results, protocol, metric)
    return results


def _best(results: Results, protocol: Protocol, metric: str) -> frozenset:
    cells = {row.key: results.cell(row, protocol) for row in results.checkpoints}
    samples = {key: cell.samples[metric] for key, cell in cells.items() if metric in _of(cell)}
    least = 1 if protocol.task in CERTAIN else LEAST_TRIALS
    kept = not_below(list(samples.values()), least)
    return frozenset() if all(kept) else frozenset(k for k, good in zip(samples, kept) if good)


def _of(cell: Cell | None) -> dict[str, Sample]:
    return cell.samples if cell else {}


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


def _cell(entries: list[Entry], notes: list[str]) -> Cell:
    entries = sorted(entries, key=lambda entry: (entry.record["trial"], entry.record["seed"]))
    records = [entry.record for entry in entries]
    return _cell_of(samples_of(entries, notes), records, entries)


def _cell_of(
    samples: dict[str, Sample], records: list[dict[str, Any]], entries: list[Entry]
) -> Cell:
    return Cell(
        summaries={m: summarize(s.values, s.replicates) for m, s in samples.items()},
        values={metric: list(sample.values) for metric, sample in samples.items()},
        samples=samples,
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
                proof=fact["proof"],
            )
        )
    kind = {True: 0, False: 2}
    return sorted(
        rows, key=lambda row: (1 if row.method == "supervised" else kind[row.untrained], row.label)
    )


def _pool_methods(
    groups: dict[tuple, list[Entry]], cells: dict[tuple, Cell], protocols: list[Protocol]
) -> list[Checkpoint]:
    """Rows of methods, whose cells it adds: checkpoints of one method and pretraining config."""
    families: dict[tuple[str, str], dict[int, tuple]] = defaultdict(dict)
    for (key, _), members in groups.items():
        fact = members[0].record["checkpoint"]
        seed, config = fact["pretrain_seed"], fact["pretrain_config_sha256"]
        if fact["method"] and config and seed is not None and not _untrained(fact):
            families[fact["method"], config].setdefault(seed, (key, fact))
    rows = []
    names = [method for (method, _), seeds in families.items() if len(seeds) >= LEAST_SEEDS]
    for (method, config), seeds in families.items():
        if len(seeds) < LEAST_SEEDS:
            continue
        label = f"{method} (method)" if names.count(method) == 1 else f"{method} ({config[:7]})"
        fact = next(iter(seeds.values()))[1]
        row = Checkpoint(
            key=("method " + method, config),
            label=label,
            sha256="",
            method=method,
            backbone=fact["backbone"],
            untrained=False,
            epochs=fact["pretrain_epochs"],
            seconds=_mean(f["pretrain_seconds"] for _, f in seeds.values()),
            gpu_seconds=_mean(f["pretrain_gpu_seconds"] for _, f in seeds.values()),
            views=fact["pretrain_views"],
            seeds=len(seeds),
        )
        for protocol in protocols:
            found = {s: cells.get((key, protocol.key)) for s, (key, _) in seeds.items()}
            found = {seed: cell for seed, cell in found.items() if cell}
            metrics = {metric for cell in found.values() for metric in cell.samples}
            samples = {
                m: pooled({s: c.samples[m] for s, c in found.items() if m in c.samples})
                for m in sorted(metrics)
            }
            samples = {metric: sample for metric, sample in samples.items() if sample}
            if samples:
                entries = [entry for cell in found.values() for entry in cell.entries]
                records = [entry.record for entry in entries]
                cells[row.key, protocol.key] = _cell_of(samples, records, entries)
                rows += [row] if row not in rows else []
    return sorted(rows, key=lambda row: row.label)


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    return None if None in numbers else math.fsum(numbers) / len(numbers)


def _protocols(groups: dict[tuple, list[Entry]], notes: list[str]) -> list[Protocol]:
    members: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for (_, key), entries in groups.items():
        members[key] += entries
    short = [key[:3] for key in members]
    configs = {key: read_config(entries, notes) for key, entries in members.items()}
    protocols = []
    for key, entries in members.items():
        task, dataset, name, engine, sha = key
        # What all its records were run with, so that the header can say how two columns differ
        overrides = _common_overrides(entries)
        label = name
        if short.count(key[:3]) > 1:
            label += f" [{' '.join(overrides) or 'as shipped'}; {engine}, config {sha[:7]}]"
        config, files = configs[key], [e.artifact("lr_sweep") for e in entries]
        rate = learning_rate(task, config, [file for file in files if file])
        changed = any(belongs_to_protocol(pair.split()[0]) for pair in overrides)
        cut = changed or any(entry.record["status"] == "shortened" for entry in entries)
        printed = () if cut or rate == "swept lr" else tuple(published_rows(name))
        label += f", {rate}" if rate else ""
        protocols.append(
            Protocol(key, task, dataset, name, engine, sha, overrides, label, rate, (), printed)
        )
    protocols = [replace(p, differs=_differs(p, protocols, configs)) for p in protocols]
    return sorted(protocols, key=lambda p: (_rank(p.task, _TASK_ORDER), p.task, *p.key[1:]))


def _differs(
    protocol: Protocol, others: list[Protocol], configs: dict[tuple, Flat | None]
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


def _common_overrides(entries: Iterable[Entry]) -> tuple[str, ...]:
    """KEY VALUE pairs that all the records share, in the order of the first."""
    lists = [_pairs(entry.record["protocol"]["overrides"]) for entry in entries]
    return tuple(pair for pair in lists[0] if all(pair in other for other in lists))


def _pairs(words: Sequence[str]) -> list[str]:
    """ "KEY VALUE" texts; some records hold them as such, some as alternating words."""
    if words and " " in words[0]:  # a key has no space
        return list(words)
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
