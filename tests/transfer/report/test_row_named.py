"""The names by which --compare finds a row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from transfer.report.from_records import build_results
from transfer.report.row_named import row_named
from transfer.report.run import write_report
from transfer.results.read_records import read_records

Writer = Callable[..., Path]


def test_all_names_of_a_row(tmp_path: Path, write_run: Writer) -> None:
    path = write_run("random_resnet18", "knn", {"knn20_top1": 5.0}, method="random")
    shutil.move(path.parents[1], path.parents[2] / "untrained")  # the row's name in a suite
    write_run("mine", "knn", {"knn20_top1": 50.0}, method="byol")
    write_run("theirs", "knn", {"knn20_top1": 50.0}, checkpoint={"sha256": "a" * 64})
    twin = write_run("theirs", "linear", {"top1": 50.0}, checkpoint={"sha256": "b" * 64})
    results = build_results(read_records([tmp_path]).files)
    for name, label in (
        ("random_resnet18", "random_resnet18"),
        ("untrained", "random_resnet18"),
        ("random", "random_resnet18"),
        ("mine", "mine"),
        ("byol", "mine"),
        ("theirs (aaaaaaa)", "theirs (aaaaaaa)"),
    ):
        assert row_named(results, name).label == label
    with pytest.raises(InputError, match=r"may be any of these rows: theirs \(a+\), theirs \(b+\)"):
        row_named(results, "theirs")
    with pytest.raises(InputError, match="may be any of these rows"):
        row_named(results, "simclr")  # the method of two rows
    with pytest.raises(InputError, match="unknown checkpoint 'untraine' in --compare.*mine"):
        row_named(results, "untraine")
    assert twin.exists()


def test_the_report_compares_by_folder(tmp_path: Path, write_run: Writer) -> None:
    path = write_run("random_resnet18", "knn", {"knn20_top1": 5.0}, method="random")
    shutil.move(path.parents[1], path.parents[2] / "random")
    write_run("simclr", "knn", {"knn20_top1": 50.0})
    written = write_report([tmp_path], tmp_path / "out", pair=("simclr", "random"))
    assert "+45.0" in written.comparison and "random_resnet18" in written.comparison
