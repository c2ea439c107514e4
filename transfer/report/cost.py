"""Quality against what it cost: each row beside its best rival at equal epochs, at equal compute.

A method with more views an image does more work in an epoch: better at equal epochs may be worse at
equal compute. Compute is measured GPU-seconds where both have them, else seconds (on one kind of
machine only), and never views: a view's cost depends on its size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from transfer.report.compare import OPEN, compare_cells
from transfer.report.numbers_as_text import format_cell, format_count, format_seconds
from transfer.report.rows_columns_cells import Cell, Checkpoint, Protocol, Results
from transfer.results.comparison import holm
from transfer.results.statistics import CONFIDENCE

EPOCHS_APART, COMPUTE_APART = 0.01, 0.10  # largest relative difference that counts as equal

Equal = Callable[[Checkpoint, Checkpoint], bool]


def compute_rows(
    results: Results, protocol: Protocol, metric: str
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) for one column, cheapest first; no rows where no cost is known."""
    header = ["checkpoint", "epochs", "views", "GPU time", "time", metric]
    header += ["best rival at equal epochs", "best rival at equal compute"]
    known = {row: cell for row, cell in results.column(protocol) if metric in cell.samples}
    costed = [row for row in known if not row.untrained and row.seconds is not None]
    rows = []
    for row in sorted(costed, key=lambda r: (r.gpu_seconds or r.seconds or 0.0, r.label)):
        cost = [format_count(row.epochs), format_count(row.views)]
        cost += [format_seconds(row.gpu_seconds or None), format_seconds(row.seconds)]
        rivals = [_rival(row, known, protocol, metric, equal) for equal in (_epochs, _compute)]
        rows.append([row.label, *cost, format_cell(results, row, protocol, metric), *rivals])
    return header, rows


def _rival(
    row: Checkpoint,
    cells: Mapping[Checkpoint, Cell],
    protocol: Protocol,
    metric: str,
    equal: Equal,
) -> str:
    """ "+1.2 to simclr (not resolved)", by Holm's method; "–" where no other row is equal."""
    others = [o for o in cells if o is not row and not o.untrained and equal(row, o)]
    if not others:
        return "–"
    sample = cells[row].samples[metric]
    pairs = [compare_cells(protocol, metric, sample, cells[o].samples[metric]) for o in others]
    # The best was chosen after a look at all of them
    adjusted = holm([1.0 if pair.found.p is None else pair.found.p for pair in pairs])
    means = [cells[other].summaries[metric].mean for other in others]
    best = means.index(max(means))
    verdict = pairs[best].verdict.split(":")[0] if adjusted[best] < 1 - CONFIDENCE else OPEN
    return f"{pairs[best].found.estimate.value:+.1f} to {others[best].label} ({verdict})"


def _epochs(one: Checkpoint, other: Checkpoint) -> bool:
    return _near(one.epochs, other.epochs, EPOCHS_APART)


def _compute(one: Checkpoint, other: Checkpoint) -> bool:
    if one.gpu_seconds and other.gpu_seconds:
        return _near(one.gpu_seconds, other.gpu_seconds, COMPUTE_APART)
    if one.gpu_seconds or other.gpu_seconds:
        return False  # a GPU's seconds are not a CPU's
    return _near(one.seconds, other.seconds, COMPUTE_APART)


def _near(one: float | None, other: float | None, apart: float) -> bool:
    if one is None or other is None:
        return False
    return abs(one - other) <= apart * max(one, other)
