"""AP of reweighted images against images that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from transfer.results import reweighted
from transfer.results.replicates import draw_weights
from transfer.results.reweighted import keep_classes, reweighted_ap

COCO, VOC = np.linspace(0, 1, 101), np.arange(0.0, 1.1, 0.1)


def slow_ap(right: np.ndarray, objects: int, levels: np.ndarray | None) -> float:
    """AP as the mean, over levels of recall, of the best precision from there on."""
    if not objects:
        return float("nan")
    levels = np.arange(1, objects + 1) / objects if levels is None else levels
    found = np.cumsum(right)
    points = list(zip(found / objects, found / np.arange(1, len(right) + 1)))
    return float(np.mean([max([p for r, p in points if r >= v], default=0.0) for v in levels]))


@pytest.mark.parametrize("cells", [2**20, 100, 1])
@pytest.mark.parametrize("levels", [COCO, VOC, None])
def test_reweighted_is_repeated(
    monkeypatch: pytest.MonkeyPatch, levels: np.ndarray | None, cells: int
) -> None:
    monkeypatch.setattr(reweighted, "_CELLS", cells)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, 60)
    counted = rng.random((4, 60)) < [[1.0], [0.8], [0.5], [0.8]]
    right = counted & (rng.random((4, 60)) < [[0.4], [0.6], [0.2], [0.0]])
    counted[:, 5] = right[:, 5] = False  # counts at no threshold
    objects = np.max([np.bincount(image[r], minlength=9) for r in right], axis=0)
    objects += rng.integers(0, 2, 9)
    weights = np.concatenate([np.ones((9, 1), int), draw_weights(9, 20)], axis=1)
    weights[:, -1] *= objects == 0  # a draw without objects
    found = reweighted_ap(image, right, counted, objects, weights, levels)
    assert np.isnan(found[:, -1]).all() and not np.isnan(found[:, :-1]).any()
    for t, draw in np.ndindex(found.shape):
        copies = np.repeat(np.arange(60), weights[image, draw] * counted[t])
        expected = slow_ap(right[t, copies], int(objects @ weights[:, draw]), levels)
        assert found[t, draw] == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("levels", [COCO, VOC])
def test_a_level_counts_where_the_quotient_reaches_it(levels: np.ndarray) -> None:
    """0.3 of VOC's levels is not the number 3 / 10: a recall is compared as the quotient it is."""
    a, b = np.mgrid[1:60, 0:60].reshape(2, -1)
    there = np.ones((1, 1), bool)
    found = reweighted_ap(np.array([0]), there, there, np.ones(2, int), np.stack([a, b]), levels)
    assert np.array_equal(found[0], (a / (a + b) >= levels[:, None]).sum(axis=0) / len(levels))


def test_area_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    present, scores = rng.random(50) < 0.3, rng.permutation(50).astype(float)
    weights = draw_weights(50, 20)
    order = np.argsort(-scores)
    right = present[order][None]
    (found,) = reweighted_ap(
        order, right, np.ones_like(right), present.astype(int), weights, levels=None
    )
    for column, ap in zip(weights.T, found):
        copies = np.repeat(np.arange(50), column)
        precision, recall, _ = precision_recall_curve(present[copies], scores[copies])
        envelope = np.maximum.accumulate(precision)[:-1]
        assert ap == pytest.approx(float(np.sum(-np.diff(recall) * envelope)), abs=1e-12)


def test_a_class_that_a_draw_lacks_keeps_its_score() -> None:
    weights, objects = np.array([[1, 2, 0], [1, 0, 2]]), np.array([1, 0])
    right = np.array([[True, False]])
    values = reweighted_ap(np.array([0, 1]), right, np.ones_like(right), objects, weights, None)
    assert values[0, :2].tolist() == [1.0, 1.0] and np.isnan(values[0, 2])
    assert keep_classes(values).tolist() == [[1.0, 1.0, 1.0]]


def test_no_detection() -> None:
    nothing = np.zeros((2, 0), bool)
    weights, objects = np.array([[1, 0], [1, 2]]), np.array([1, 0])
    found = reweighted_ap(np.zeros(0, int), nothing, nothing, objects, weights, COCO)
    np.testing.assert_array_equal(found, [[0.0, np.nan]] * 2)
