"""The rank of each checkpoint in every task, and over the tasks that all of them share.

A task is a protocol with its first headline metric. The largest mean has rank 1; equal means share
the mean of their places. A checkpoint that was not run on a task has no rank there, and would gain
or lose by the gap if ranks of different tasks were averaged. The mean rank therefore counts the
checkpoints that were run on at least half of the tasks, and the tasks that all of these share.
"""

from __future__ import annotations

import numpy as np

from transfer.report.rows_columns_cells import Checkpoint, Protocol, Ranking, Results
from transfer.results.ranks import ranks_of


def rank_checkpoints(results: Results) -> Ranking:
    """Returns the ranking of the checkpoints; it has no row if they share no task."""
    rows, tasks = shared(results)
    if len(rows) < 2 or not tasks:
        return Ranking([], [], np.zeros((0, 0)))
    means = np.array([[headline_mean(results, row, task) for row in rows] for task in tasks])
    return Ranking(rows, tasks, ranks_of(means))


def shared(results: Results) -> tuple[list[Checkpoint], list[Protocol]]:
    """Returns the checkpoints with at least half of the tasks, and the tasks that all of them have.

    Both keep the order of the table.
    """
    has = {
        row.key: [headline_mean(results, row, task) is not None for task in results.protocols]
        for row in results.checkpoints
    }
    rows = [row for row in results.checkpoints if 2 * sum(has[row.key]) >= len(results.protocols)]
    tasks = [
        task
        for place, task in enumerate(results.protocols)
        if all(has[row.key][place] for row in rows)
    ]
    return rows, tasks


def headline_mean(results: Results, row: Checkpoint, task: Protocol) -> float | None:
    """Returns the row's mean of the task's first headline metric; None if it was not run."""
    cell = results.cell(row, task)
    summary = cell.summaries.get(results.headline(task)) if cell else None
    return None if summary is None else summary.mean
