"""Records to tables: store entries in, checkpoints x protocols x metrics out.

A column belongs to one protocol: task, data set, config (by its sha256) and engine. Records of
different protocols never meet in one cell. A row is one checkpoint, and a claim about it is of its
fine-tuning trials; the untrained backbone is one row whatever the seed of its weights. Three or
more checkpoints that differ in their pretraining's seed alone are also one row of their method.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from transfer.report.methods import pool_methods
from transfer.report.protocols import make_protocols
from transfer.report.results import Cell, Checkpoint, Protocol, Results, make_cell
from transfer.report.samples import CERTAIN, LEAST_TRIALS, samples_of
from transfer.results.comparison import best_of
from transfer.results.metrics import sorted_metrics
from transfer.results.read_records import Entry


def build_results(entries: Sequence[Entry]) -> Results:
    """Groups records; failed runs and those without a number are named in the notes alone."""
    notes, groups = [], defaultdict(list)
    for entry in entries:
        record = entry.record
        if record["status"] == "failed":
            notes.append(f"{entry.path}: the run failed; left out")
        elif all(value is None for value in record["metrics"].values()):
            notes.append(f"{entry.path}: none of its metrics has a value; left out")
        else:
            groups[_checkpoint_key(record), _protocol_key(record)].append(entry)
    cells = {key: _cell(members, notes) for key, members in groups.items()}
    checkpoints = _checkpoints(groups)
    notes += _one_by_several_names(checkpoints)
    members: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    for (_, key), group in groups.items():
        members[key] += group
    protocols = make_protocols(members, notes)
    metrics = {
        protocol.key: sorted_metrics(
            metric
            for (_, key), cell in cells.items()
            if key == protocol.key
            for metric in cell.summaries
        )
        for protocol in protocols
    }
    if any(cell.shortened for cell in cells.values()):
        notes.append("† shortened: the protocol was cut to fit a budget; see the runs below")
    methods = pool_methods(checkpoints, protocols, cells, notes)
    results = Results(checkpoints, protocols, metrics, cells, notes, methods)
    for protocol, metric in results.headlines():
        results.best[protocol.key, metric] = _best(results, protocol, metric)
    return results


def _one_by_several_names(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """A note for each checkpoint that has several rows, told by its weights."""
    rows: dict[str, list[Checkpoint]] = defaultdict(list)
    for row in checkpoints:
        if not row.untrained:
            rows[row.sha256].append(row)
    return [
        f"{' and '.join(row.label for row in same)} are one checkpoint under {len(same)} names: "
        f"their weights are equal (sha256 {sha256[:7]}); --name gives it one row in later runs"
        for sha256, same in rows.items()
        if len(same) > 1
    ]


def _best(results: Results, protocol: Protocol, metric: str) -> frozenset:
    cells = {row.key: results.cell(row, protocol) for row in results.checkpoints}
    samples = {k: c.samples[metric] for k, c in cells.items() if c and metric in c.samples}
    certain = protocol.task in CERTAIN
    best = best_of(list(samples.values()), 1 if certain else LEAST_TRIALS, certain)
    return frozenset(key for key, good in zip(samples, best) if good)


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
    return make_cell(samples_of(entries, notes), records, entries)


def _checkpoints(groups: dict[tuple, list[Entry]]) -> list[Checkpoint]:
    """Rows: untrained, then supervised, then the others, each by name."""
    facts = {key: members[0].record["checkpoint"] for (key, _), members in groups.items()}
    names = [name for name, _ in facts]
    # Records of schema 1 do not say; another one of the same weights may
    proofs = {
        key: entry.record["checkpoint"]["proof"]
        for (key, _), members in groups.items()
        for entry in members
        if entry.record["checkpoint"]["proof"] is not None
    }
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
                source=fact["source"],
                proof=proofs.get(key),
                seed=fact["pretrain_seed"],
                config_sha256=fact["pretrain_config_sha256"],
            )
        )
    kind = {True: 0, False: 2}
    return sorted(
        rows, key=lambda row: (1 if row.method == "supervised" else kind[row.untrained], row.label)
    )
