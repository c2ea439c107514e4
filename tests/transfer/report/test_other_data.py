"""Records of one protocol and one name of a data set, but with different data."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.common.errors import InputError
from transfer.report.compare import compare_table
from transfer.report.csv_and_latex import to_csv
from transfer.report.flags import find_flags
from transfer.report.from_records import build_results
from transfer.report.rows_columns_cells import Results
from transfer.report.run import write_report
from transfer.results.read_records import read_records

Writer = Callable[..., Path]


def data(test: str = "b", images: int = 100, train: str = "a", in_both: int = 0) -> dict[str, Any]:
    def split(letter: str, count: int) -> dict[str, Any]:
        return {"images": count, "objects": None, "classes": 2, "fingerprint": letter * 64}

    return {"train": split(train, 500), "test": split(test, images), "in_both": in_both}


def results(path: Path) -> Results:
    return build_results(read_records([path.parents[3]]).files)


def test_they_are_columns_of_their_own(write_run: Writer) -> None:
    for trial, of in enumerate((data(), data(), data("c"))):
        path = write_run("one", "knn", {"knn20_top1": 50.0 + trial}, trial, data=of)
    found = results(path)
    first, second = found.protocols
    sizes = sorted(len(cell.files) for cell in found.cells.values())
    assert sizes == [1, 2] and first.label != second.label
    assert all("[data " in protocol.label for protocol in found.protocols)
    assert "differs from" in first.differs[0] and "different content" in first.differs[0]
    rows = list(csv.DictReader(to_csv(found).splitlines()))
    assert sorted((row["n"], row["data"]) for row in rows) == sorted(
        (str(len(found.cells[place].files)), place[1].data) for place in found.cells
    )


def test_the_flag_says_which_rows_and_how_they_differ(write_run: Writer) -> None:
    write_run("one", "knn", {"knn20_top1": 50.0}, data=data())
    write_run("two", "knn", {"knn20_top1": 60.0}, data=data("c", 90))
    path = write_run("old", "knn", {"knn20_top1": 70.0})
    lines = map(str, find_flags(results(path)))
    (flag,) = [line for line in lines if line.startswith("different data with one name")]
    assert "(train 500 images, test 100 images): one" in flag
    assert "(train 500 images, test 90 images): two" in flag
    assert "[data unknown] (data unknown): old" in flag
    assert "the test data (" in flag and "the training data" not in flag


@pytest.mark.parametrize(
    "other, told",
    [
        (data("c"), "the test data .100 images of one and of two, but different content"),
        (data(images=90, test="c"), "the test data .100 images of one, 90 images of two"),
        (data(train="d"), "the training data .500 images of one and of two, but different content"),
        (None, "the data of one is unknown"),
    ],
)
def test_they_are_not_compared(
    write_run: Writer, tmp_path: Path, other: dict[str, Any] | None, told: str
) -> None:
    write_run("one", "knn", {"knn20_top1": 50.0}, data=data())
    path = write_run("two", "knn", {"knn20_top1": 60.0}, data=other)
    with pytest.raises(InputError, match=f"knn_photos was run on different data .*{told}"):
        write_report([path.parents[3]], tmp_path / "report", pair=("one", "two"))


def test_the_same_data_is_one_column_and_is_compared(write_run: Writer) -> None:
    write_run("one", "knn", {"knn20_top1": 50.0}, data=data())
    path = write_run("two", "knn", {"knn20_top1": 60.0}, data=data())
    found = results(path)
    assert len(found.protocols) == 1 and "[" not in found.protocols[0].label
    assert compare_table(found, *found.checkpoints)[1][0][4] == "-10.0"
    assert not [flag for flag in find_flags(found) if "data" in flag]


def test_old_records_stay_together(write_run: Writer) -> None:
    write_run("one", "knn", {"knn20_top1": 50.0})
    found = results(write_run("two", "knn", {"knn20_top1": 60.0}))
    assert len(found.protocols) == 1 and not [f for f in find_flags(found) if "data" in str(f)]


def test_test_images_among_the_training_images_are_flagged(write_run: Writer) -> None:
    path = write_run("one", "knn", {"knn20_top1": 50.0}, data=data(in_both=7))
    flags = " ".join(map(str, find_flags(results(path))))
    assert "7 of the 100 test images are also training images, and kNN finds them" in flags
