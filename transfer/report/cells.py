"""A cell of the table: the trials of a checkpoint under a protocol, as one `Sample` per metric.

Replicates are used if every trial has them for the same draws of the same images, and if they match
the record's metric. If they cannot be read, a note says so, and the interval covers only trials.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pretrain.common.errors import InputError
from transfer.report.rows_columns_cells import Cell
from transfer.results.comparison import Sample
from transfer.results.group import LEAST_SEEDS
from transfer.results.metrics import is_percent
from transfer.results.read_records import RecordFile
from transfer.results.replicates import Stored, read_replicates
from transfer.results.statistics import summarize

_TOLERANCE = 1e-4  # percent points between a record and its replicates' value on the full data


def trials_of(files: Sequence[RecordFile], notes: list[str]) -> Cell:
    """Returns the cell of one checkpoint, whose trials, in order, are the sample."""
    ordered = sorted(files, key=lambda file: (file.record["trial"], file.record["seed"]))
    return _cell(_samples(ordered, notes), ordered)


def seeds_of(cells: Mapping[int, Cell]) -> Cell | None:
    """Returns the cell of a method, from {pretraining seed: the cell of its checkpoint}.

    A metric with fewer seeds than `LEAST_SEEDS` is left out; None if no metric has enough.
    """
    samples = {}
    for metric in sorted({metric for cell in cells.values() for metric in cell.samples}):
        found = {s: cell.samples[metric] for s, cell in cells.items() if metric in cell.samples}
        if len(found) >= LEAST_SEEDS:
            samples[metric] = _pooled(found)
    return _cell(samples, [f for cell in cells.values() for f in cell.files]) if samples else None


def _cell(samples: dict[str, Sample], files: list[RecordFile]) -> Cell:
    """Returns a cell of the samples; its costs are the means over the records."""
    records = [file.record for file in files]
    return Cell(
        summaries={
            m: summarize(s.values, s.replicates, s.images, percent=is_percent(m))
            for m, s in samples.items()
        },
        values={metric: list(sample.values) for metric, sample in samples.items()},
        samples=samples,
        seconds=math.fsum(record["seconds"] for record in records) / len(records),
        gpu_seconds=math.fsum(record["gpu_seconds"] for record in records) / len(records),
        views=math.fsum(record["views_seen"] for record in records) / len(records),
        shortened=any(record["status"] == "shortened" for record in records),
        files=files,
    )


def _samples(files: Sequence[RecordFile], notes: list[str]) -> dict[str, Sample]:
    """Returns a sample per metric; a trial whose metric is null is left out of its sample."""
    lost: list[str] = []
    stored = [_stored(file, lost) for file in files]
    if lost:
        more = f" and {len(lost) - 1} more trials" if len(lost) > 1 else ""
        notes.append(f"{lost[0]}{more}; the intervals of this cell are only over trials")
    members: dict[str, list[int]] = defaultdict(list)
    for index, file in enumerate(files):
        for metric, value in file.record["metrics"].items():
            if value is not None:
                members[metric].append(index)
    found = {}
    for metric, indices in members.items():
        values = [files[i].record["metrics"][metric] for i in indices]
        found[metric] = _sample(values, metric, [stored[i] for i in indices])
    return found


def _sample(values: Sequence[float], metric: str, stored: Sequence[Stored | None]) -> Sample:
    """Returns the trials' values, with replicates if all trials have them for the same draws."""
    known = [one for one in stored if one is not None and metric in one.values]
    if len(known) < len(stored) or len({one.key for one in known}) > 1:
        return Sample(values)
    count = min(len(one.values[metric]) for one in known)
    matrix = np.stack([one.values[metric][:count] for one in known])
    if count < 2 or not np.isfinite(matrix).all():
        return Sample(values)
    return Sample(values, matrix, known[0].key, known[0].images)


def _pooled(samples: Mapping[int, Sample]) -> Sample:
    """Returns a method's sample from one sample per pretraining seed: each seed counts once."""
    members = [samples[seed] for seed in sorted(samples)]
    values = [float(np.mean(sample.values)) for sample in members]
    replicates = [sample.replicates for sample in members if sample.replicates is not None]
    if len(replicates) < len(members) or len({sample.draws for sample in members}) > 1:
        return Sample(values)
    count = min(matrix.shape[1] for matrix in replicates)
    rows = [matrix[:, :count].mean(axis=0) for matrix in replicates]
    return Sample(values, np.stack(rows), members[0].draws, members[0].images)


def _stored(file: RecordFile, lost: list[str]) -> Stored | None:
    path = file.artifact("replicates")
    if path is None:
        return None
    try:
        found = read_replicates(path)
    except InputError as error:
        lost.append(str(error))
        return None
    metrics = file.record["metrics"]
    wrong = [
        name
        for name, value in found.full.items()
        if metrics.get(name) is not None and not abs(value - metrics[name]) < _TOLERANCE
    ]
    if wrong:
        lost.append(f"{path}: from a different evaluation than the record ({wrong[0]})")
        return None
    return found
