"""The headline metrics of a task, and how commands print them."""

from __future__ import annotations

import pytest

from transfer.results.metrics import headline_texts

KNN = {
    "features/alignment": 0.5,
    "knn100_top1": 70.0,
    "knn10_T0.1_top1": 79.0,
    "knn10_top1": 78.125,
    "knn20_top1": 81.0,
    "knn20_top5": 99.0,
}
BOXES = {"bbox/AP": 12.345, "bbox/AP50": 30.0, "bbox/AP75": 9.0, "bbox/APs": None}


@pytest.mark.parametrize(
    "task, metrics, texts",
    [
        ("knn", KNN, ["knn20_top1 81.00"]),
        # Other sizes of the neighbourhood than the field's 20: the first in order.
        ("knn", {"knn5_top1": 60.0, "knn3_top1": 50.0, "features/x": 1.0}, ["knn3_top1 50.00"]),
        ("linear", {"top5": 90.0, "top1": 50.0, "val_top1": 60.0}, ["top1 50.00"]),
        ("detection", BOXES, ["bbox/AP 12.35", "bbox/AP50 30.00"]),
        ("detection", {**BOXES, "segm/AP": float("nan")}, ["bbox/AP 12.35", "bbox/AP50 30.00"]),
        ("detection", {"bbox/AP": None, "bbox/AP50": float("nan")}, ["bbox/AP n/a"]),
        ("knn", {}, []),
    ],
)
def test_headlines_as_texts(task: str, metrics: dict, texts: list[str]) -> None:
    assert headline_texts(task, metrics) == texts
