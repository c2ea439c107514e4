"""Rows of methods: checkpoints that differ in their pretraining's seed alone, pooled."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from transfer.report.results import Cell, Checkpoint, Protocol, make_cell
from transfer.report.samples import LEAST_SEEDS, pooled

Cells = dict[tuple[tuple[str, str], tuple[str, ...]], Cell]
Seeds = dict[int, Checkpoint]  # by pretraining seed
Family = tuple[str, str, float | None]  # method, pretraining config's sha256, epochs


def pool_methods(
    checkpoints: Sequence[Checkpoint],
    protocols: Sequence[Protocol],
    cells: Cells,
    notes: list[str],
) -> list[Checkpoint]:
    """One row per method, pretraining config and epochs with enough seeds; adds their cells to
    `cells`.

    A seed with two different checkpoints (batch norm's statistics estimated again, say) leaves open
    which one is the method's: nothing is pooled, and noted.
    """
    families = _families(checkpoints, notes)
    names = [method for method, _, _ in families]
    rows = []
    for (method, config, epochs), seeds in families.items():
        length = "" if epochs is None else f", {epochs:g} ep"
        several = names.count(method) > 1
        label = f"{method} ({config[:7]}{length})" if several else f"{method} (method)"
        row = _row(label, config, seeds)
        found = {p.key: _cell(seeds, p, cells) for p in protocols}
        found = {(row.key, key): cell for key, cell in found.items() if cell}
        cells.update(found)
        rows += [row] if found else []
    return sorted(rows, key=lambda row: row.label)


def _families(checkpoints: Sequence[Checkpoint], notes: list[str]) -> dict[Family, Seeds]:
    families: dict[Family, Seeds] = defaultdict(dict)
    unclear = set()
    for row in checkpoints:
        if not row.method or not row.config_sha256 or row.seed is None or row.untrained:
            continue
        # A run that was cut, or a checkpoint on its way, has other epochs: no seed of the others
        family = row.method, row.config_sha256, row.epochs
        first = families[family].setdefault(row.seed, row)
        if first.sha256 != row.sha256:
            unclear.add(family)
            notes.append(
                f"method {row.method}: {first.label} and {row.label} are of one pretraining seed; "
                "not pooled"
            )
    enough = {f: seeds for f, seeds in families.items() if len(seeds) >= LEAST_SEEDS}
    return {family: seeds for family, seeds in enough.items() if family not in unclear}


def _row(label: str, config: str, seeds: Seeds) -> Checkpoint:
    first = next(iter(seeds.values()))
    return Checkpoint(
        key=(label, config),
        label=label,
        sha256="",
        method=first.method,
        backbone=first.backbone,
        untrained=False,
        epochs=first.epochs,
        seconds=_mean(row.seconds for row in seeds.values()),
        gpu_seconds=_mean(row.gpu_seconds for row in seeds.values()),
        views=first.views,
        seeds=len(seeds),
    )


def _cell(seeds: Seeds, protocol: Protocol, cells: Mapping[tuple, Cell]) -> Cell | None:
    found = {seed: cells.get((row.key, protocol.key)) for seed, row in seeds.items()}
    found = {seed: cell for seed, cell in found.items() if cell}
    samples = {
        metric: pooled({s: c.samples[metric] for s, c in found.items() if metric in c.samples})
        for metric in sorted({metric for cell in found.values() for metric in cell.samples})
    }
    samples = {metric: sample for metric, sample in samples.items() if sample}
    if not samples:
        return None
    entries = [entry for cell in found.values() for entry in cell.entries]
    return make_cell(samples, [entry.record for entry in entries], entries)


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    return None if None in numbers else math.fsum(numbers) / len(numbers)
