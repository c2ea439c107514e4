"""Selects the rows that the page draws and compares if there are too many rows.

Figures grow with the number of rows, and comparisons with its square: 500 checkpoints would give a
page of gigabytes, with marks of which a reader can distinguish 16. The page's tables have all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.common.command_names import as_started
from transfer.report.rows_columns_cells import Checkpoint, Results

MOST_ROWS = 32  # most checkpoints, and most methods; marks repeat from the 17th on
MOST_BASELINES = 8


def shown_rows(results: Results, pair: Sequence[str] = ()) -> Results:
    """Returns the results with at most `MOST_ROWS` checkpoints and methods.

    First come the rows whose labels are in `pair`, then untrained and supervised backbones, then
    those that are first, second, ... in any headline column.
    """
    return results.of_rows(
        _chosen(results, results.checkpoints, pair), _chosen(results, results.methods, pair)
    )


def words_on_shown(results: Results, shown: Results) -> str:
    """Returns the page's text about rows that are only in its tables; "" if it draws all rows."""
    parts = [
        f"{len(some)} of {len(rows)} {what}"
        for what, some, rows in (
            ("checkpoints", shown.checkpoints, results.checkpoints),
            ("methods", shown.methods, results.methods),
        )
        if len(some) < len(rows)
    ]
    if not parts:
        return ""
    return (
        f"This page draws and compares {' and '.join(parts)}: baselines and those with the highest "
        "means in the headline columns. The tables have every row, and "
        + as_started("tools/report.py DIR --output OUT --compare A B compares any two.")
    )


def _chosen(
    results: Results, rows: Sequence[Checkpoint], pair: Sequence[str]
) -> Sequence[Checkpoint]:
    if len(rows) <= MOST_ROWS:
        return rows
    baselines = [row for row in rows if row.untrained or row.method == "supervised"]
    wanted = [row for row in rows if row.label in pair] + baselines[:MOST_BASELINES]
    columns = []
    for protocol, metric in results.headlines():
        found = [
            (cell.summaries[metric].mean, row)
            for row, cell in results.column(protocol, rows)
            if metric in cell.summaries
        ]
        columns.append([row for _, row in sorted(found, key=lambda one: -one[0])])
    for rank in range(MOST_ROWS):
        wanted += [column[rank] for column in columns if rank < len(column)]
    keys = set(list(dict.fromkeys(row.key for row in wanted))[:MOST_ROWS])
    return [row for row in rows if row.key in keys]
