"""Trials as samples: the records of one cell in, a `Sample` per metric out.

Replicates join where every trial has them, of the same draws of the same images, and they are of
the record's own metric. What cannot be read is noted; the interval then covers trials alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pretrain.common.errors import InputError
from transfer.results.comparison import Sample
from transfer.results.read_records import Entry
from transfer.results.replicates import Stored, read_replicates

LEAST_SEEDS = 3  # pretraining seeds behind a claim about a method
LEAST_TRIALS = 3  # fine-tuning trials behind a claim about a checkpoint
# Tasks that have no chance in them on given weights: one trial says all of them
CERTAIN = ("knn", "svm")
_TOLERANCE = 1e-4  # percent points between a record and its replicates' own full data


def samples_of(entries: Sequence[Entry], notes: list[str]) -> dict[str, Sample]:
    """By metric; a trial whose metric is null is no part of that metric's sample."""
    lost: list[str] = []
    stored = [_stored(entry, lost) for entry in entries]
    if lost:
        more = f" and {len(lost) - 1} more trials" if len(lost) > 1 else ""
        notes.append(f"{lost[0]}{more}; the intervals of this cell are over trials alone")
    members: dict[str, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        for metric, value in entry.record["metrics"].items():
            if value is not None:
                members[metric].append(index)
    found = {}
    for metric, indices in members.items():
        values = [entries[i].record["metrics"][metric] for i in indices]
        seeds = [entries[i].record["seed"] for i in indices]
        known = [stored[i] for i in indices]
        replicates, draws = _matrix(metric, known)
        count = None if replicates is None else known[0].images
        found[metric] = Sample(values, seeds, replicates, draws, count)
    return found


def pooled(samples: Mapping[int, Sample]) -> Sample | None:
    """One checkpoint per pretraining seed -> a sample of the method: each seed counts once.

    None for fewer than three seeds, which show no method.
    """
    if len(samples) < LEAST_SEEDS:
        return None
    members = [samples[seed] for seed in sorted(samples)]
    # Pretraining seed 0 of a method and fine-tuning seed 0 of a checkpoint are no pair
    seeds = [f"pretraining {seed}" for seed in sorted(samples)]
    values = [float(np.mean(sample.values)) for sample in members]
    keys = {sample.draws for sample in members}
    if len(keys) > 1 or None in keys:
        return Sample(values, seeds)
    count = min(sample.replicates.shape[1] for sample in members)
    rows = [sample.replicates[:, :count].mean(axis=0) for sample in members]
    return Sample(values, seeds, np.stack(rows), members[0].draws, members[0].images)


def _stored(entry: Entry, lost: list[str]) -> Stored | None:
    path = entry.artifact("replicates")
    if path is None:
        return None
    try:
        found = read_replicates(path)
    except InputError as error:
        lost.append(str(error))
        return None
    metrics = entry.record["metrics"]
    wrong = [
        name
        for name, value in found.full.items()
        if metrics.get(name) is not None and not abs(value - metrics[name]) < _TOLERANCE
    ]
    if wrong:
        lost.append(f"{path}: of another evaluation than the record ({wrong[0]})")
        return None
    return found


def _matrix(
    metric: str, stored: Sequence[Stored | None]
) -> tuple[np.ndarray | None, tuple[int, str] | None]:
    if any(s is None or metric not in s.values for s in stored) or len({s.key for s in stored}) > 1:
        return None, None
    count = min(len(s.values[metric]) for s in stored)
    matrix = np.stack([s.values[metric][:count] for s in stored])
    if count < 2 or not np.isfinite(matrix).all():
        return None, None
    return matrix, stored[0].key
