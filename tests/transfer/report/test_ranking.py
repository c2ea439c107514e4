"""Ranks over the shared tasks, and how missing results are handled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transfer.report.from_records import build_results
from transfer.report.rows_columns_cells import Results
from transfer.results.read_records import read_records

Writer = Callable[..., Path]


def _results(root: Path) -> Results:
    return build_results(read_records([root]).files)


def test_mean_ranks_are_over_shared_tasks(tmp_path: Path, write_run: Writer) -> None:
    """`c` has half of the tasks, so that only those count; `d` has fewer and is not ranked."""
    scores = {
        "linear": {"a": 60.0, "b": 50.0, "c": 70.0},
        "detection": {"a": 40.0, "b": 41.0, "c": 30.0},
        "knn": {"a": 5.0, "b": 9.0, "d": 90.0},
        "svm": {"a": 5.0, "b": 9.0},
    }
    metric = {"linear": "top1", "detection": "bbox/AP", "knn": "knn20_top1", "svm": "mAP"}
    for task, rows in scores.items():
        for name, value in rows.items():
            write_run(name, task, {metric[task]: value}, pictures=False)
    results = _results(tmp_path)
    assert [task.task for task in results.ranked_on] == ["linear", "detection"]
    ranks = {key.name: rank for key, rank in results.mean_ranks.items()}
    assert ranks == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert [row.label for row in results.by_rank()] == ["a", "b", "c", "d"]


def test_checkpoints_without_a_common_task_have_no_rank(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "linear", {"top1": 1.0}, pictures=False)
    write_run("b", "knn", {"knn20_top1": 1.0}, pictures=False)
    results = _results(tmp_path)
    assert not results.mean_ranks and [row.label for row in results.by_rank()] == ["a", "b"]
