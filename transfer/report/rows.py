"""The rows of the table: one per checkpoint, and one per method with enough pretraining seeds."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from transfer.report.cells import seeds_of
from transfer.report.rows_columns_cells import Cells, Checkpoint, Protocol
from transfer.results.group import (
    LEAST_SEEDS,
    CheckpointKey,
    MethodKey,
    ProtocolKey,
    is_untrained,
    method_of,
)
from transfer.results.read_records import RecordFile

Seeds = dict[int, Checkpoint]  # by pretraining seed


def checkpoint_rows(
    groups: Mapping[tuple[CheckpointKey, ProtocolKey], Sequence[RecordFile]],
) -> list[Checkpoint]:
    """Returns the untrained backbones, then supervised ones, then the others, each by name."""
    facts = {key: members[0].record["checkpoint"] for (key, _), members in groups.items()}
    names = Counter(key.name for key in facts)
    # Records of schema 1 do not say it; a newer record of the same weights may
    proofs = {
        key: file.record["checkpoint"]["proof"]
        for (key, _), members in groups.items()
        for file in members
        if file.record["checkpoint"]["proof"] is not None
    }
    rows = []
    for key, fact in facts.items():
        unique = names[key.name] == 1
        rows.append(
            Checkpoint(
                key=key,
                label=key.name if unique else f"{key.name} ({fact['sha256'][:7]})",
                sha256=fact["sha256"],
                method=fact["method"],
                backbone=fact["backbone"],
                untrained=is_untrained(fact),
                epochs=fact["pretrain_epochs"],
                seconds=fact["pretrain_seconds"],
                gpu_seconds=fact["pretrain_gpu_seconds"],
                views=fact["pretrain_views"],
                source=fact["source"],
                proof=proofs.get(key),
                seed=fact["pretrain_seed"],
                of_method=method_of(fact),
            )
        )
    return sorted(rows, key=lambda row: (_rank(row), row.label))


def note_equal_weights(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Returns a note for each checkpoint that has several rows, identified by its weights."""
    rows: dict[str, list[Checkpoint]] = defaultdict(list)
    for row in checkpoints:
        if not row.untrained:
            rows[row.sha256].append(row)
    return [
        f"{' and '.join(row.label for row in same)} are one checkpoint with {len(same)} names: "
        f"their weights are equal (sha256 {sha256[:7]}); use one --name for it in later runs"
        for sha256, same in rows.items()
        if len(same) > 1
    ]


def pool_methods(
    checkpoints: Sequence[Checkpoint],
    protocols: Sequence[Protocol],
    cells: Cells,
    notes: list[str],
) -> list[Checkpoint]:
    """Returns one row per method with enough seeds; its cells are added to `cells`."""
    seeds_by_method = _seeds_by_method(checkpoints, notes)
    names = Counter(key.method for key in seeds_by_method)
    rows = []
    for key, seeds in seeds_by_method.items():
        length = "" if key.epochs is None else f", {key.epochs:g} ep"
        several = names[key.method] > 1
        detail = f"{key.config_sha256[:7]}{length}" if several else "method"
        row = _method_row(f"{key.method} ({detail})", key, seeds)
        found = {}
        for protocol in protocols:
            places = {seed: (one.key, protocol.key) for seed, one in seeds.items()}
            cell = seeds_of({s: cells[place] for s, place in places.items() if place in cells})
            if cell:
                found[row.key, protocol.key] = cell
        cells.update(found)
        rows += [row] if found else []
    return sorted(rows, key=lambda row: row.label)


def _seeds_by_method(checkpoints: Sequence[Checkpoint], notes: list[str]) -> dict[MethodKey, Seeds]:
    """Returns methods that may be pooled; two checkpoints with one seed prevent it, with a note."""
    methods: dict[MethodKey, Seeds] = defaultdict(dict)
    unclear = set()
    for row in checkpoints:
        if row.of_method is None or row.seed is None:
            continue
        first = methods[row.of_method].setdefault(row.seed, row)
        if first.sha256 != row.sha256:
            # For example, batch norm's statistics were estimated again
            unclear.add(row.of_method)
            notes.append(
                f"method {row.method}: {first.label} and {row.label} have the same pretraining "
                "seed; the method is not pooled"
            )
    return {
        key: seeds
        for key, seeds in methods.items()
        if len(seeds) >= LEAST_SEEDS and key not in unclear
    }


def _method_row(label: str, key: MethodKey, seeds: Seeds) -> Checkpoint:
    first = next(iter(seeds.values()))
    return Checkpoint(
        key=CheckpointKey(label, key.config_sha256),
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


def _rank(row: Checkpoint) -> int:
    if row.method == "supervised":
        return 1
    return 0 if row.untrained else 2


def _mean(values: Iterable[float | None]) -> float | None:
    given = list(values)
    known = [value for value in given if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(given) else None
