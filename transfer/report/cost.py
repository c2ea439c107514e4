"""Quality against cost: each row with its best rival at equal epochs, and at equal compute.

A method with more views per image does more work in an epoch: it may be better at equal epochs and
worse at equal compute. Compute is measured in GPU-seconds if both rows have them, else in seconds
(only on one kind of machine), and never in views: the cost of a view depends on its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from transfer.report.compare import OPEN, compare_cells
from transfer.report.numbers_as_text import format_cell, format_count, format_seconds
from transfer.report.rows_columns_cells import (
    Cell,
    Checkpoint,
    CostTable,
    Protocol,
    Results,
)
from transfer.results.all_pairs import Column
from transfer.results.group import DETERMINISTIC_TASKS
from transfer.results.pooled import Spread

EPOCHS_APART, COMPUTE_APART = 0.01, 0.10  # largest relative difference that counts as equal


def compute_rows(results: Results, protocol: Protocol, metric: str) -> CostTable:
    """Returns (header, rows) for one column, cheapest first; no rows if fewer than two have a cost.

    It is computed once, and kept in `results.cost_tables` for the other outputs.
    """
    place = protocol.key, metric
    if place not in results.cost_tables:
        results.cost_tables[place] = _compute_rows(results, protocol, metric)
    return results.cost_tables[place]


def _compute_rows(results: Results, protocol: Protocol, metric: str) -> CostTable:
    header = ["checkpoint", "epochs", "views", "GPU time", "time", metric]
    header += ["best rival at equal epochs", "best rival at equal compute"]
    known = [(row, cell) for row, cell in results.column(protocol) if metric in cell.samples]
    rivals = _Rivals(protocol, metric, known, results.spreads.get((protocol.key, metric, False)))
    costed = [
        (row.gpu_seconds or row.seconds or 0.0, row.label, place)
        for place, (row, _) in enumerate(known)
        if not row.untrained and row.seconds is not None
    ]
    rows = []
    for _, label, place in sorted(costed) if len(costed) > 1 else []:
        row = known[place][0]
        cost = [format_count(row.epochs), format_count(row.views)]
        cost += [format_seconds(row.gpu_seconds or None), format_seconds(row.seconds)]
        best = [rivals.best(place, rivals.of_epochs), rivals.best(place, rivals.of_compute)]
        rows.append([label, *cost, format_cell(results, row, protocol, metric), *best])
    return header, rows


class _Rivals:
    """The rows of one column, to compare each with the best row of equal cost."""

    def __init__(
        self,
        protocol: Protocol,
        metric: str,
        known: Sequence[tuple[Checkpoint, Cell]],
        spread: Spread | None,
    ) -> None:
        self._protocol, self._metric, self._spread = protocol, metric, spread
        self._rows = [row for row, _ in known]
        self._samples = [cell.samples[metric] for _, cell in known]
        self._means = np.array([cell.summaries[metric].mean for _, cell in known])
        self._column = Column(self._samples, spread, protocol.task in DETERMINISTIC_TASKS)
        self._trained = np.array([not row.untrained for row in self._rows], bool)
        self._epochs = _known(row.epochs for row in self._rows)
        self._seconds = _known(row.seconds for row in self._rows)
        self._gpu_seconds = np.array([row.gpu_seconds or 0.0 for row in self._rows])

    def best(self, place: int, equal: Callable[[int], np.ndarray]) -> str:
        """Returns "+1.2 to simclr (not resolved)", by Holm's method; "–" without an equal row."""
        others = np.flatnonzero(equal(place) & self._trained)
        others = others[others != place]
        if not len(others):
            return "–"
        best = int(self._means[others].argmax())
        rival = int(others[best])
        samples = self._samples[place], self._samples[rival]
        pair = compare_cells(self._protocol, self._metric, *samples, self._spread)
        # The best was chosen after looking at all of them
        resolved = self._column.against(place, others).resolved()[best]
        verdict = pair.verdict.split(":")[0] if resolved else OPEN
        return f"{pair.found.estimate.value:+.1f} to {self._rows[rival].label} ({verdict})"

    def of_epochs(self, place: int) -> np.ndarray:
        """Returns bool (n,): the rows with equal epochs."""
        return _near(self._epochs[place], self._epochs, EPOCHS_APART)

    def of_compute(self, place: int) -> np.ndarray:
        """Returns bool (n,): the rows with equal seconds; GPU and CPU seconds are never equal."""
        on_gpu, gpu_seconds = self._gpu_seconds > 0, self._gpu_seconds
        if on_gpu[place]:
            return on_gpu & _near(gpu_seconds[place], gpu_seconds, COMPUTE_APART)
        return ~on_gpu & _near(self._seconds[place], self._seconds, COMPUTE_APART)


def _known(values: Iterable[float | None]) -> np.ndarray:
    """Returns float (n,); unknown values are NaN, which is not near any value."""
    return np.array([math.nan if value is None else value for value in values], np.float64)


def _near(one: float, others: np.ndarray, apart: float) -> np.ndarray:
    near: np.ndarray = np.abs(one - others) <= apart * np.maximum(one, others)
    return near
