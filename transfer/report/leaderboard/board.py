"""The leaderboard: what is known about the order of the checkpoints, by task and over all tasks.

A task is a protocol with its first headline metric. Ranks, z-scores and correlations are over the
checkpoints and tasks that `ranking.shared` chooses, so that a checkpoint that was not run on a task
neither gains nor loses by it. Groups, and wins of one checkpoint over another, are over all tasks
that the checkpoints have.

The uncertainty of the overall rank comes from `DRAWS` bootstrap draws. Each draws trials and test
images at random (`transfer/results/drawn_means.py`), ranks the checkpoints in each task, and
averages the ranks. This gives the interval "on these tasks". For the interval "on tasks like
these", each draw also takes T of the tasks at random, with replacement. Both are the central 95 %
of the draws (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).

z-scores are those of "Battle of the Backbones" (arXiv 2310.19909): in each task, the distance of a
checkpoint from the mean of all, in standard deviations of all, averaged over the tasks. They depend
on which checkpoints are compared: one bad row makes the differences of the others small.

Legend: k checkpoints, T tasks, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pretrain.common.errors import InputError
from transfer.report.numbers_as_text import some_of
from transfer.report.ranking import headline_mean, shared
from transfer.report.rows_columns_cells import Cell, Checkpoint, Protocol, Results
from transfer.results.all_pairs import beats
from transfer.results.drawn_means import draw_means
from transfer.results.group import DETERMINISTIC_TASKS, LEAST_TRIALS
from transfer.results.letters import letter_groups
from transfer.results.ranks import ranks_of
from transfer.results.statistics import BOTH, CONFIDENCE, ROUNDING, estimate

DRAWS, SEED = 2000, 0
LEAST_TASKS = 2  # tasks that an overall rank needs
ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class TaskRanks:
    """Describes one task: the rows that were run on it, the best first.

    Attributes:
        means: (k,) of the headline metric.
        letters: no difference between rows that share a letter is resolved.
        beats: bool (k, k): row i is significantly higher than row j.
    """

    protocol: Protocol
    metric: str
    rows: list[Checkpoint]
    means: list[float]
    letters: list[str]
    beats: np.ndarray

    @property
    def label(self) -> str:
        """Returns the protocol with the metric."""
        return f"{self.protocol.short}: {self.metric}"

    def places(self) -> list[tuple[int, int]]:
        """Returns the best and the worst place of each row that the resolved pairs allow.

        A row is behind those that beat it and before those that it beats. All pairs are corrected
        for, so in 95 of 100 columns the true places of all rows are inside (M. Mogstad, J. Romano,
        A. Shaikh, D. Wilhelm, Review of Economic Studies 91(1), 2024).
        """
        behind, before = self.beats.sum(axis=0), self.beats.sum(axis=1)
        return [(1 + int(a), len(self.rows) - int(b)) for a, b in zip(behind, before)]


@dataclass(frozen=True)
class Overall:
    """Is one of the ranked rows, the best mean rank first; intervals are the central 95 % of the
    draws.

    rank, z: means over the tasks. place: the place by `rank`, 1 is the best. here, alike: (low,
    high) of the place on these tasks, and on tasks like these. first: share of the draws that also
    draw tasks in which the row is ranked first.
    """

    row: Checkpoint
    rank: float
    rank_interval: tuple[float, float]
    place: float
    here: tuple[float, float]
    alike: tuple[float, float]
    first: float
    z: float


@dataclass(frozen=True)
class Wins:
    """Holds the wins of each row over each other row, int (k, k), in the order of
    `Leaderboard.rows`.

    tasks: how many both have; higher: on how many of them the first is higher; resolved: on how
    many of these the difference is resolved.
    """

    tasks: np.ndarray
    higher: np.ndarray
    resolved: np.ndarray


@dataclass(frozen=True)
class Leaderboard:
    """Holds everything that the outputs show; `notes` say what is left out, and why."""

    results: Results
    tasks: list[TaskRanks]
    rows: list[Checkpoint]  # those that are ranked, the best first, then the others
    ranked_on: list[TaskRanks]
    overall: list[Overall]
    drawn: dict[str, np.ndarray]  # by label of a task: (B, k), means of `TaskRanks.rows`
    notes: list[str]

    @cached_property
    def places(self) -> dict[tuple[str, str], int]:
        """Returns a row's number in a task, by the labels of the task and of the row."""
        return {
            (task.label, row.label): number
            for task in self.tasks
            for number, row in enumerate(task.rows)
        }

    @cached_property
    def wins(self) -> Wins:
        """Returns the wins of all rows over each other."""
        numbers = {row.label: number for number, row in enumerate(self.rows)}
        count = len(self.rows)
        found = Wins(*(np.zeros((count, count), np.int64) for _ in range(3)))
        for task in self.tasks:
            among = np.ix_(*[[numbers[row.label] for row in task.rows]] * 2)
            means = np.array(task.means)
            found.tasks[among] += ~np.eye(len(means), dtype=bool)
            found.higher[among] += means[:, None] - means > ROUNDING
            found.resolved[among] += task.beats
        return found


def make_leaderboard(results: Results, draws: int = DRAWS, seed: int = SEED) -> Leaderboard:
    """Returns the leaderboard of all checkpoints and protocols.

    Raises:
        InputError: there are fewer than two checkpoints or tasks, or no task has two checkpoints
            with the same metric.
    """
    _check(results)
    notes: list[str] = []
    tasks = [found for p in results.protocols if (found := _task(results, p, notes))]
    if not tasks:
        raise InputError(
            "a leaderboard needs a task on which two checkpoints have the same metric; "
            f"{'; '.join(notes)}"
        )
    rng = np.random.default_rng(seed)
    drawn = {task.label: _drawn(results, task, draws, rng) for task in tasks}
    rows, protocols = shared(results)
    chosen = {protocol.key for protocol in protocols}
    ranked_on = [task for task in tasks if task.protocol.key in chosen]
    overall: list[Overall] = []
    if len(ranked_on) >= LEAST_TASKS and len(rows) > 1:
        overall = _overall(rows, ranked_on, drawn, rng)
        _note_left_out(results, rows, tasks, ranked_on, notes)
    else:
        notes.append(
            f"no overall rank: it needs {LEAST_TASKS} tasks that all checkpoints with at least "
            f"half of the tasks have, and the number of these is {len(ranked_on)}"
        )
    first = [one.row for one in overall]
    others = [row for row in results.by_rank() if row not in first]
    return Leaderboard(results, tasks, [*first, *others], ranked_on, overall, drawn, notes)


def _check(results: Results) -> None:
    for kind, found in (
        ("checkpoints", [row.label for row in results.checkpoints]),
        ("tasks", [protocol.label for protocol in results.protocols]),
    ):
        if len(found) < 2:
            raise InputError(
                f"a leaderboard needs two {kind} or more, and the records have {len(found)} "
                f"({', '.join(found)}); add folders of runs, or leave out --leaderboard"
            )


def _task(results: Results, protocol: Protocol, notes: list[str]) -> TaskRanks | None:
    """Returns the task's rows in order; None, with a note, if fewer than two have its metric."""
    metric = results.headline(protocol)
    column = results.column(protocol)
    having = [(row, cell) for row, cell in column if metric in cell.samples]
    lacking = [row.label for row, cell in column if metric not in cell.samples]
    if lacking:
        notes.append(f"{protocol.short}: no {metric} of {some_of(lacking)}: not ranked there")
    if len(having) < 2:
        only = ", ".join(row.label for row, _ in having)
        notes.append(f"{protocol.short}: one checkpoint only ({only}): not a task here")
        return None
    having.sort(key=lambda found: -found[1].summaries[metric].mean)
    certain = protocol.task in DETERMINISTIC_TASKS
    samples = [cell.samples[metric] for _, cell in having]
    above = beats(samples, 1 if certain else LEAST_TRIALS, certain)
    means = [cell.summaries[metric].mean for _, cell in having]
    _note_unknown(protocol, metric, having, certain, notes)
    rows = [row for row, _ in having]
    return TaskRanks(protocol, metric, rows, means, letter_groups(above, means), above)


def _note_unknown(
    protocol: Protocol,
    metric: str,
    having: Sequence[tuple[Checkpoint, Cell]],
    certain: bool,
    notes: list[str],
) -> None:
    """Notes rows whose interval does not cover both trials and images: their ranks look firmer."""
    words = []
    for row, cell in having:
        sample = cell.samples[metric]
        covers = estimate(sample.values, sample.replicates, sample.images).covers
        if covers != BOTH and not (certain and covers is not None):
            words.append(f"{row.label} ({covers or 'nothing'})")
    if words:
        notes.append(
            f"{protocol.short}: the uncertainty of these rows is only partly known, so their ranks "
            f"look more certain than they are: {some_of(words)}"
        )


def _drawn(results: Results, task: TaskRanks, draws: int, rng: np.random.Generator) -> np.ndarray:
    cells = [results.cell(row, task.protocol) for row in task.rows]
    samples = [cell.samples[task.metric] for cell in cells if cell]
    return draw_means(samples, task.protocol.task in DETERMINISTIC_TASKS, draws, rng)


def _overall(
    rows: Sequence[Checkpoint],
    tasks: Sequence[TaskRanks],
    drawn: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> list[Overall]:
    order = [[task.rows.index(row) for row in rows] for task in tasks]
    means = np.array([np.array(task.means)[places] for task, places in zip(tasks, order)])
    ranks = np.array([ranks_of(drawn[t.label][:, places]) for t, places in zip(tasks, order)])
    here = mean_rank_draws(ranks)
    taken = rng.integers(len(tasks), size=(ranks.shape[1], len(tasks)))
    alike = mean_rank_draws(ranks, taken)
    rank = ranks_of(means).mean(axis=0)
    places = {"own": ranks_of(-rank), "here": ranks_of(-here), "alike": ranks_of(-alike)}
    first = places["alike"] == places["alike"].min(axis=1, keepdims=True)
    share = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    z = z_scores(means).mean(axis=0)
    found = [
        Overall(
            row=row,
            rank=float(rank[k]),
            rank_interval=interval(alike[:, k]),
            place=float(places["own"][k]),
            here=interval(places["here"][:, k]),
            alike=interval(places["alike"][:, k]),
            first=float(share[k]),
            z=float(z[k]),
        )
        for k, row in enumerate(rows)
    ]
    return sorted(found, key=lambda one: one.rank)


def mean_rank_draws(ranks: np.ndarray, taken: np.ndarray | None = None) -> np.ndarray:
    """Returns (B, k): the mean over tasks of the ranks (T, B, k), of all tasks or of those taken.

    taken: (B, T), the numbers of the tasks that count in each draw, with repetitions.
    """
    if taken is None:
        mean: np.ndarray = ranks.mean(axis=0)
        return mean
    counts = (taken[:, :, None] == np.arange(len(ranks))).sum(axis=1)  # (B, T)
    weighted: np.ndarray = np.einsum("bt,tbk->bk", counts, ranks) / taken.shape[1]
    return weighted


def z_scores(means: np.ndarray) -> np.ndarray:
    """Returns z-scores (T, k) across the rows; 0 in a task whose rows are all equal.

    The standard deviation is that of these rows, divided by k as in `scipy.stats.zscore`. The paper
    does not say whether it divides by k or by k - 1; the order is the same.
    """
    spread = means.std(axis=1, keepdims=True)
    apart = means - means.mean(axis=1, keepdims=True)
    return np.where(spread > ROUNDING, apart / np.where(spread > ROUNDING, spread, 1.0), 0.0)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Returns the ends of the central 95 % of the draws; each end is one of the draws."""
    low = np.quantile(draws, ENDS[0], method="lower")
    return float(low), float(np.quantile(draws, ENDS[1], method="higher"))


def _note_left_out(
    results: Results,
    rows: Sequence[Checkpoint],
    tasks: Sequence[TaskRanks],
    ranked_on: Sequence[TaskRanks],
    notes: list[str],
) -> None:
    """Notes which rows and tasks do not count in the overall rank."""
    counts = {
        row.label: sum(headline_mean(results, row, task.protocol) is not None for task in tasks)
        for row in results.checkpoints
        if row not in rows
    }
    if counts:
        names = some_of([f"{label} ({count} of {len(tasks)})" for label, count in counts.items()])
        notes.append(f"not ranked overall, because of fewer than half of the tasks: {names}")
    unused = [task.label for task in tasks if task not in ranked_on]
    if unused:
        notes.append(
            f"not in the overall rank, because a ranked checkpoint lacks them: {some_of(unused)}"
        )
