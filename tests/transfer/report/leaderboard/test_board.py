"""The leaderboard against slow references: loops over draws, scipy, and equal rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pretrain.common.errors import InputError
from transfer.report.from_records import build_results
from transfer.report.leaderboard.board import (
    Leaderboard,
    interval,
    make_leaderboard,
    mean_rank_draws,
    z_scores,
)
from transfer.report.leaderboard.correlations import correlations
from transfer.report.rows_columns_cells import Results
from transfer.results.comparison import Sample
from transfer.results.drawn_means import draw_means
from transfer.results.ranks import kendall, ranks_of, spearman
from transfer.results.read_records import read_records

Writer = Callable[..., Path]
TASKS = {"linear": "top1", "detection": "bbox/AP", "svm": "mAP", "semantic": "sem_seg/mIoU"}
GAINS = {"best": 6.0, "good": 3.0, "also": 3.1, "worst": 0.0, "random": -20.0}


def _results(root: Path) -> Results:
    return build_results(read_records([root]).files)


def _write(write: Writer, task: str, name: str, gain: float, trials: int = 3) -> None:
    """Trials of one row on 80 images that are equally hard for all rows of the task."""
    place = list(TASKS).index(task)
    hard = np.random.default_rng(place).normal(0, 10, 80)
    for trial in range(trials):
        seed = [place, trial, *name.encode()]
        scores = 50 + gain + hard + np.random.default_rng(seed).normal(0, 2, 80)
        write(
            name,
            task,
            {TASKS[task]: 0.0},
            trial,
            method="random" if name == "random" else "simclr",
            scores=scores,
            pictures=False,
        )


@pytest.fixture
def board(tmp_path: Path, write_run: Writer) -> Leaderboard:
    """Five rows; "random" lacks one task."""
    for task in TASKS:
        for name, gain in GAINS.items():
            if (task, name) != ("semantic", "random"):
                _write(write_run, task, name, gain, 1 if task == "svm" else 3)
    return make_leaderboard(_results(tmp_path), draws=400)


def test_overall_is_a_loop_over_draws(board: Leaderboard) -> None:
    """Ranks of each draw by scipy, one draw and one task after the other."""
    tasks = [task for task in board.tasks if len(task.rows) == 5]
    assert board.ranked_on == tasks and len(tasks) == 3
    labels = [one.row.label for one in board.overall]
    rng = np.random.default_rng(0)
    for task in board.tasks:  # the draws of trials and images come before those of tasks
        cells = [board.results.cell(row, task.protocol) for row in task.rows]
        samples = [cell.samples[task.metric] for cell in cells if cell]
        again = draw_means(samples, task.protocol.task == "svm", 400, rng)
        assert (again == board.drawn[task.label]).all()
    taken = rng.integers(3, size=(400, 3))
    here, alike = [], []
    for draw in range(400):
        by_task = []
        for task in tasks:
            ranks = stats.rankdata(-board.drawn[task.label][draw])
            by_task.append({row.label: rank for row, rank in zip(task.rows, ranks)})
        for tasks_taken, places in ((range(3), here), (taken[draw], alike)):
            chosen = [by_task[number] for number in tasks_taken]
            means = [np.mean([ranks[label] for ranks in chosen]) for label in labels]
            places.append(stats.rankdata(np.round(means, 9)))
    for place, one in enumerate(board.overall):
        own = [
            1 + sum(other > mean for other in task.means)
            for task in tasks
            for row, mean in zip(task.rows, task.means)
            if row is one.row
        ]
        assert one.rank == pytest.approx(np.mean(own))
        assert one.here == interval(np.array(here)[:, place])
        assert one.alike == interval(np.array(alike)[:, place])
        assert one.here[0] <= one.place <= one.here[1]
        assert one.alike[0] <= one.place <= one.alike[1]
        assert one.rank_interval[0] <= one.rank <= one.rank_interval[1]
    assert sum(one.first for one in board.overall) == pytest.approx(1.0)
    assert labels[0] == "best" and labels[-1] == "random"
    assert board.overall[0].first > 0.99


def test_other_tasks_are_a_loop_over_draws() -> None:
    draws = np.random.default_rng(0)
    ranks = draws.random((3, 50, 4))
    taken = draws.integers(3, size=(50, 3))
    expected = [np.mean([ranks[task, b] for task in taken[b]], axis=0) for b in range(50)]
    assert mean_rank_draws(ranks, taken) == pytest.approx(np.array(expected))
    assert mean_rank_draws(ranks) == pytest.approx(ranks.mean(axis=0))


def test_z_scores_are_scipys(board: Leaderboard) -> None:
    draws = np.random.default_rng(0).normal(50, 9, (4, 6))
    assert z_scores(draws) == pytest.approx(stats.zscore(draws, axis=1))
    assert (z_scores(np.full((2, 3), 7.0)) == 0).all()
    means = [{row.label: m for row, m in zip(t.rows, t.means)} for t in board.ranked_on]
    for one in board.overall:
        z = [stats.zscore([m[o.row.label] for o in board.overall]) for m in means]
        place = board.overall.index(one)
        assert one.z == pytest.approx(np.mean([task[place] for task in z]))


def test_wins_and_groups_follow_the_tests_of_the_report(board: Leaderboard) -> None:
    results = board.results
    for a, one in enumerate(board.rows):
        for b, two in enumerate(board.rows):
            means = [
                (results.cell(one, task.protocol), results.cell(two, task.protocol), task)
                for task in board.tasks
            ]
            both = [found for found in means if one is not two and found[0] and found[1]]
            higher = [x.summaries[t.metric].mean > y.summaries[t.metric].mean for x, y, t in both]
            resolved = [t.beats[t.rows.index(one), t.rows.index(two)] for _, _, t in both]
            assert board.wins.tasks[a, b] == len(both)
            assert board.wins.higher[a, b] == sum(higher)
            assert board.wins.resolved[a, b] == sum(resolved) <= sum(higher)
    for task in board.tasks:
        best = {
            row.label for row in task.rows if board.results.is_best(row, task.protocol, task.metric)
        }
        unbeaten = {row.label for n, row in enumerate(task.rows) if not task.beats[:, n].any()}
        assert best == unbeaten  # the stars
        for a, first in enumerate(task.letters):
            for b, second in enumerate(task.letters):
                apart = task.beats[a, b] or task.beats[b, a]
                assert bool(set(first) & set(second)) == (not apart)
        for number, (low, high) in enumerate(task.places()):
            assert low <= number + 1 <= high
    (linear,) = [task for task in board.tasks if task.metric == "top1"]
    assert linear.rows[0].label == "best" and linear.letters[-1] not in linear.letters[0]


def test_correlations_are_scipys_with_wide_intervals(board: Leaderboard) -> None:
    found = correlations(board)
    assert len(found) == 6
    for one in found:
        common = [row for row in one.one.rows if row in one.two.rows]
        first = [one.one.means[one.one.rows.index(row)] for row in common]
        second = [one.two.means[one.two.rows.index(row)] for row in common]
        assert one.rows == len(common)
        assert one.rho == pytest.approx(stats.spearmanr(first, second).statistic)
        assert one.tau == pytest.approx(stats.kendalltau(first, second).statistic)
        assert -1 <= one.rho_interval[0] <= one.rho <= one.rho_interval[1] <= 1
        assert one.tau_interval[0] <= one.tau <= one.tau_interval[1]


def test_equal_rows_tie(tmp_path: Path, write_run: Writer) -> None:
    """Two rows with the same records, up to their names: one place, one letter, no win."""
    for task in ("linear", "detection"):
        for name in ("worst", "best"):
            _write(write_run, task, name, GAINS[name])
        for path in sorted((tmp_path / "runs" / task / task / "best").rglob("record.json")):
            twin = Path(str(path).replace("/best/", "/twin/"))
            twin.parent.mkdir(parents=True)
            for file in path.parent.iterdir():
                (twin.parent / file.name).write_bytes(file.read_bytes())
            record = json.loads(path.read_text())
            record["checkpoint"].update(name="twin", sha256="e" * 64)
            twin.write_text(json.dumps(record))
    board = make_leaderboard(_results(tmp_path), draws=300)
    ranked = {one.row.label: one for one in board.overall}
    assert ranked["best"].rank == ranked["twin"].rank == 1.5
    assert ranked["best"].place == ranked["twin"].place == 1.5
    assert ranked["best"].here == ranked["twin"].here == (1.0, 2.0)
    assert ranked["best"].z == ranked["twin"].z
    assert [row.label for row in board.rows] == ["best", "twin", "worst"]
    assert board.wins.higher.tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]
    for task in board.tasks:
        assert task.letters[0] == task.letters[1] == "a"


def covered(boards: int, trials: int, seed: int = 0) -> float:
    """The share of the intervals "on these tasks" that hold a row's true place.

    Made-up leaderboards of four rows and four tasks, whose true means are known. Each task has 60
    test images, which are equally hard for all rows, and other trials and images would give other
    scores.
    """
    draws, held = np.random.default_rng(seed), 0
    for _ in range(boards):
        truth = 50 + draws.normal(0, 1.0, (4, 4)) + np.array([1.5, 1.0, 0.5, 0.0])
        ranks = []
        for means in truth:
            weights = draws.multinomial(60, np.full(60, 1 / 60), size=100).T / 60
            hard = draws.normal(0, 10, 60)
            samples = []
            for mean in means:
                scores = mean + hard + draws.normal(0, 4, 60) + draws.normal(0, 2, (trials, 60))
                scores += draws.normal(0, 0.4, (trials, 1))
                samples.append(Sample(scores.mean(axis=1), scores @ weights, (0, "x"), 60))
            ranks.append(ranks_of(draw_means(samples, False, 200, draws)))
        places = ranks_of(-mean_rank_draws(np.array(ranks)))
        true = ranks_of(-ranks_of(truth).mean(axis=0))
        for row in range(4):
            low, high = interval(places[:, row])
            held += bool(np.floor(low) <= true[row] <= np.ceil(high))
    return held / (4 * boards)


def test_intervals_hold_the_true_place() -> None:
    """In 95 % or more; `docs/report.md` has the numbers of 1,000 leaderboards each."""
    assert covered(40, 3) >= 0.95


def _noisy(means: np.ndarray, draws: np.random.Generator, again: int = 1) -> np.ndarray:
    """Returns (T, again, k): for means (T, k), those of three trials with deviations of 0.5."""
    shape = (means.shape[0], again, means.shape[1])
    noisy: np.ndarray = means[:, None] + draws.normal(0, 0.5 / np.sqrt(3), shape)
    return noisy


def covered_alike(tasks: int, boards: int, seed: int = 0) -> tuple[float, float]:
    """The shares of the intervals "on tasks like these" that hold a row's expected mean rank over
    all such tasks, and its place by it.

    Made-up leaderboards of six rows. A row's quality varies as much between the rows as the
    quality of one row varies between tasks.
    """
    draws, held, placed = np.random.default_rng(seed), 0, 0
    for _ in range(boards):
        quality = draws.normal(0, 1, 6)
        expected = ranks_of(quality + draws.normal(0, 1, (20000, 6))).mean(axis=0)
        measured = _noisy(quality + draws.normal(0, 1, (tasks, 6)), draws)[:, 0]
        taken = draws.integers(tasks, size=(1000, tasks))
        ranks = mean_rank_draws(ranks_of(_noisy(measured, draws, 1000)), taken)
        places, true = ranks_of(-ranks), ranks_of(-expected)
        for row in range(6):
            low, high = interval(ranks[:, row])
            held += bool(low <= expected[row] <= high)
            low, high = interval(places[:, row])
            placed += bool(np.floor(low) <= true[row] <= np.ceil(high))
    return held / (6 * boards), placed / (6 * boards)


def covered_correlation(rows: int, rho: float, pairs: int, seed: int = 0) -> tuple[float, float]:
    """The shares of the intervals that hold Spearman's and Kendall's correlation of all such rows.

    Rows are normal in both tasks, with the correlation rho (M. Kendall, Rank Correlation Methods,
    1948: Spearman's is 6 / pi arcsin(rho / 2), Kendall's 2 / pi arcsin(rho)).
    """
    draws, held = np.random.default_rng(seed), np.zeros(2)
    truth = 6 / np.pi * np.arcsin(rho / 2), 2 / np.pi * np.arcsin(rho)
    for _ in range(pairs):
        exact = draws.multivariate_normal([0, 0], [[1, rho], [rho, 1]], rows).T
        drawn = _noisy(_noisy(exact, draws)[:, 0], draws, 1000)
        again = np.take_along_axis(drawn, draws.integers(rows, size=(1, 1000, rows)), axis=2)
        for place, of_draws in enumerate((spearman(*again), kendall(*again))):
            low, high = interval(of_draws[np.isfinite(of_draws)])
            held[place] += low <= truth[place] <= high
    return float(held[0] / pairs), float(held[1] / pairs)


def test_intervals_on_tasks_like_these_hold() -> None:
    """Of eight tasks, in 95 % or more; `docs/report.md` has the numbers of 400 boards each."""
    assert min(covered_alike(8, 30)) >= 0.93


def test_intervals_of_correlations_hold() -> None:
    """Of eight rows, in 95 % or more; `docs/report.md` has the numbers of 400 pairs each."""
    assert min(covered_correlation(8, 0.5, 40)) >= 0.93


def test_gaps_are_named(tmp_path: Path, write_run: Writer) -> None:
    for task in TASKS:
        for name in ("best", "good"):
            _write(write_run, task, name, GAINS[name], 1)
    _write(write_run, "linear", "worst", 0.0)
    write_run("best", "knn", {"knn20_top1": 5.0}, pictures=False)
    write_run("good", "knn", {"knn200_top1": 5.0}, pictures=False)
    board = make_leaderboard(_results(tmp_path), draws=50)
    notes = "\n".join(board.notes)
    assert "not ranked overall, because of fewer than half of the tasks: worst (1 of 4)" in notes
    assert "knn_photos: no knn20_top1 of good: not ranked there" in notes
    assert "knn_photos: one checkpoint only (best): not a task here" in notes
    assert "the uncertainty of these rows is only partly known" in notes
    assert [row.label for row in board.rows] == ["best", "good", "worst"]


@pytest.mark.parametrize(
    "rows, why",
    [
        ([("a", "linear", "top1"), ("a", "svm", "mAP")], r"two checkpoints or more.* 1 \(a\)"),
        ([("a", "linear", "top1"), ("b", "linear", "top1")], "two tasks or more"),
        ([("a", "linear", "top1"), ("b", "svm", "mAP")], "two checkpoints have the same metric"),
        (
            [
                *(("a", "knn", "knn20_top1"), ("b", "knn", "knn5_top1")),
                *(("a", "svm", "mAP"), ("b", "svm", "map")),
            ],
            "same metric; knn_photos: no knn20_top1 of b: not ranked there",
        ),
    ],
)
def test_too_little_is_said_in_one_line(
    tmp_path: Path, write_run: Writer, rows: list[tuple[str, str, str]], why: str
) -> None:
    for name, task, metric in rows:
        write_run(name, task, {metric: 50.0}, pictures=False)
    with pytest.raises(InputError, match=why) as error:
        make_leaderboard(_results(tmp_path))
    assert "\n" not in str(error.value)


def test_without_shared_tasks_there_is_no_rank(tmp_path: Path, write_run: Writer) -> None:
    for task, names in (("linear", "ab"), ("svm", "ac"), ("detection", "bc")):
        for name in names:
            write_run(name, task, {TASKS[task]: 50.0 + ord(name) / 9}, pictures=False)
    board = make_leaderboard(_results(tmp_path))
    assert not board.overall and "no overall rank" in board.notes[-1]
    assert len(board.tasks) == 3 and len(board.rows) == 3
