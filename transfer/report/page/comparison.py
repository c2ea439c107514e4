"""The data of the page's comparison: every pair of rows, for each metric.

The page's script only selects and prints; this module makes all numbers and texts about a
difference.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

from transfer.report.compare import Pair, compare_cells
from transfer.report.numbers_as_text import format_summary
from transfer.report.rows_columns_cells import Checkpoint, Results
from transfer.results.metrics import is_percent


def pair_data(results: Results) -> dict[str, Any]:
    """Returns data for JSON: `columns` by protocol and metric, `pairs` of row numbers.

    Rows are those of `every_row`, with their `labels` and `units`; metrics are those in percent.
    columns: [{protocol, metric, headline, texts: [one per row, "" if not run]}]; pairs: {"0-1":
    [[column number, first - second, low, high, verdict, detectable, place in `covers`], ...]},
    first < second; null without an interval.
    """
    rows = every_row(results)
    headlines = {(protocol.key, metric) for protocol, metric in results.headlines()}
    columns: list[dict[str, Any]] = []
    pairs: dict[str, list[list[Any]]] = {}
    covers: list[str] = []
    for protocol in results.protocols:
        cells = {
            number: cell for number, row in enumerate(rows) if (cell := results.cell(row, protocol))
        }
        for metric in filter(is_percent, results.metrics[protocol.key]):
            having = {n: cell for n, cell in cells.items() if metric in cell.summaries}
            for one, two in combinations(having, 2):
                samples = (cells[one].samples[metric], cells[two].samples[metric])
                spread = results.spread(protocol, metric, rows[one], rows[two])
                pair = compare_cells(protocol, metric, *samples, spread)
                words = _covers(pair)
                covers += [] if words in covers else [words]
                found = [len(columns), *_numbers(pair), covers.index(words)]
                pairs.setdefault(f"{one}-{two}", []).append(found)
            columns.append(
                {
                    "protocol": protocol.short,
                    "metric": metric,
                    "headline": (protocol.key, metric) in headlines,
                    "texts": [
                        format_summary(having[n].summaries[metric]) if n in having else ""
                        for n in range(len(rows))
                    ],
                }
            )
    names = {"labels": [row.label for row in rows], "units": [row.unit for row in rows]}
    return {**names, "columns": columns, "pairs": pairs, "covers": covers}


def every_row(results: Results) -> list[Checkpoint]:
    """Returns the checkpoints, by the numbers of their series, then the methods."""
    return [*results.checkpoints, *results.methods]


def default_pair(results: Results, wanted: tuple[str, ...] = ()) -> tuple[int, int] | None:
    """Returns the pair of rows to show first: `wanted` labels, else the two with most in common.

    Trained checkpoints are preferred, then those with the best ranks, of which the better comes
    first. None if no two rows have a protocol in common.
    """
    labels = [row.label for row in every_row(results)]
    if wanted:
        return labels.index(wanted[0]), labels.index(wanted[1])
    shared = {}
    for one, two in combinations(range(len(results.checkpoints)), 2):
        pair = (results.checkpoints[one], results.checkpoints[two])
        common = [p for p in results.protocols if all(results.cell(row, p) for row in pair)]
        if common:
            ranks = [results.mean_ranks.get(row.key, math.inf) for row in pair]
            # The later row comes first if the ranks do not say it: baselines are named first
            order = (one, two) if ranks[0] < ranks[1] else (two, one)
            trained = not any(row.untrained for row in pair)
            shared[order] = (trained, len(common), -sum(ranks))
    return max(shared, key=lambda key: shared[key], default=None)


def _numbers(pair: Pair) -> tuple[float, float | None, float | None, str, float | None]:
    low, high = pair.found.estimate.interval() or (None, None)
    value = pair.found.estimate.value
    return (round(value, 4), _short(low), _short(high), pair.verdict, _short(pair.found.detectable))


def _covers(pair: Pair) -> str:
    """Returns what the interval covers, and which spread of the trials it uses."""
    words = pair.found.estimate.covers or ""
    return words if pair.trials == "–" else f"{words}; {pair.trials}"


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
