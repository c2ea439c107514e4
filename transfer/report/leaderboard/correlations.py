"""Whether one task predicts another: rank correlations over the checkpoints that have both.

The interval is the central 95 % of bootstrap draws that take checkpoints at random with
replacement, each with its mean over the trials and images of that draw. It is wide with few
checkpoints, because few checkpoints say little about those that were not tested. Draws in which all
checkpoints are equal have no correlation and are left out.

Legend: n checkpoints, B draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from transfer.report.leaderboard.board import SEED, Leaderboard, TaskRanks, interval
from transfer.results.ranks import kendall, spearman

LEAST_ROWS = 4  # with three checkpoints, six orders are possible
# Kendall's tau compares all pairs: more than 70 checkpoints take fewer draws, at least LEAST_DRAWS
MOST_COMPARED, LEAST_DRAWS = 10_000_000, 200


@dataclass(frozen=True)
class Correlation:
    """Is the correlation of two tasks over `rows` checkpoints; NaN if a task has equal ones."""

    one: TaskRanks
    two: TaskRanks
    rows: int
    rho: float
    rho_interval: tuple[float, float]
    tau: float
    tau_interval: tuple[float, float]


def correlations(board: Leaderboard, seed: int = SEED) -> list[Correlation]:
    """Returns the correlation of each two tasks that `LEAST_ROWS` checkpoints have, in order."""
    rng = np.random.default_rng(seed)
    found = []
    for one, two in combinations(board.tasks, 2):
        places = [
            (a, b)
            for a, row in enumerate(one.rows)
            if (b := board.places.get((two.label, row.label))) is not None
        ]
        if len(places) < LEAST_ROWS:
            continue
        first, second = (list(side) for side in zip(*places))
        drawn = board.drawn[one.label][:, first], board.drawn[two.label][:, second]
        taken = rng.integers(len(places), size=drawn[0].shape)
        again = [np.take_along_axis(values, taken, axis=1) for values in drawn]
        pairwise = max(LEAST_DRAWS, MOST_COMPARED // len(places) ** 2)
        exact = [np.array([task.means])[:, p] for task, p in ((one, first), (two, second))]
        found.append(
            Correlation(
                one,
                two,
                len(places),
                float(spearman(*exact)[0]),
                _interval(spearman(*again)),
                float(kendall(*exact)[0]),
                _interval(kendall(*(values[:pairwise] for values in again))),
            )
        )
    return found


def _interval(draws: np.ndarray) -> tuple[float, float]:
    known = draws[np.isfinite(draws)]
    return interval(known) if len(known) else (float("nan"), float("nan"))
