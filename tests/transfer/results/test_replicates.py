"""Draws, the file of replicates, and AP of reweighted images against images literally repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from pretrain.common.errors import InputError
from transfer.results.replicates import Replicates, draw_weights, ids_sha256, read_replicates
from transfer.results.reweighted import area_gain, keep_classes, levels_gain, reweighted_ap


def test_a_draw_takes_as_many_images_as_there_are() -> None:
    weights = draw_weights(7, 300)
    assert weights.shape == (7, 300) and (weights.sum(axis=0) == 7).all() and weights.min() == 0
    assert np.array_equal(weights[:, :5], draw_weights(7, 5))
    # An image's count is binomial(7, 1/7), of mean 1 and variance 6/7
    assert weights.mean() == 1.0 and weights.var() == pytest.approx(6 / 7, abs=0.1)


def test_draws_follow_sorted_ids_whatever_their_order() -> None:
    one, other = Replicates.draw(["b", "a", "c"]), Replicates.draw(["c", "b", "a"])
    assert one.ids == other.ids == ["a", "b", "c"]
    assert np.array_equal(one.weights, other.weights) and (one.weights[:, 0] == 1).all()
    assert one.rows(["c", "a"]).tolist() == [2, 0]


def slow_ap(scores: np.ndarray, right: np.ndarray, objects: int, levels: np.ndarray) -> float:
    """AP as the mean, over levels of recall, of the best precision from there on."""
    points, found = [], 0
    for place, index in enumerate(np.argsort(-scores, kind="stable"), start=1):
        found += int(right[index])
        points.append((found / objects, found / place))
    return float(np.mean([max([p for r, p in points if r >= v], default=0.0) for v in levels]))


@pytest.mark.parametrize("levels", [np.linspace(0, 1, 101), np.arange(0.0, 1.1, 0.1)])
def test_reweighted_is_repeated(levels: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    images, d = 9, 60
    image, right = rng.integers(0, images, d), rng.random(d) < 0.4
    scores = rng.permutation(d).astype(float)
    objects = np.bincount(image[right], minlength=images) + rng.integers(0, 2, images)
    weights = np.concatenate([np.ones((images, 1), int), draw_weights(images, 40)], axis=1)
    order = np.argsort(-scores)
    found = reweighted_ap(image[order], right[order], objects, weights, levels_gain(levels))
    for column, ap in zip(weights.T, found):
        copies = np.repeat(np.arange(d), column[image])
        expected = slow_ap(scores[copies], right[copies], int(objects @ column), levels)
        assert ap == pytest.approx(expected, abs=1e-12)


def test_area_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    present, scores = rng.random(50) < 0.3, rng.permutation(50).astype(float)
    weights = draw_weights(50, 20)
    order = np.argsort(-scores)
    found = reweighted_ap(order, present[order], present.astype(int), weights, area_gain)
    for column, ap in zip(weights.T, found):
        copies = np.repeat(np.arange(50), column)
        precision, recall, _ = precision_recall_curve(present[copies], scores[copies])
        envelope = np.maximum.accumulate(precision)[:-1]
        assert ap == pytest.approx(float(np.sum(-np.diff(recall) * envelope)), abs=1e-12)


def test_a_class_that_a_draw_lacks_keeps_its_score() -> None:
    weights = np.array([[1, 2, 0], [1, 0, 2]])
    args = (np.array([0, 1]), np.array([True, False]), np.array([1, 0]), weights, area_gain)
    values = reweighted_ap(*args)
    assert values[:2].tolist() == [1.0, 1.0] and np.isnan(values[2])
    assert keep_classes(values).tolist() == [1.0, 1.0, 1.0]
    nothing = reweighted_ap(
        np.zeros(0, int), np.zeros(0, bool), np.array([1, 0]), weights, area_gain
    )
    assert nothing[:2].tolist() == [0.0, 0.0] and np.isnan(nothing[2])


def test_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    replicates = Replicates.draw([3, 1, 2], draws=4)
    values = np.array([50.0, 51.0, np.nan, 49.123456789, 0.0])
    replicates.add({"bbox/AP": values, "wrong": values})
    replicates.check({"bbox/AP": 50.0, "wrong": 50.1})
    assert "wrong" in caplog.text
    stored = read_replicates(replicates.write(tmp_path))
    assert stored.key == (0, ids_sha256([1, 2, 3])) and stored.images == 3
    assert stored.full == {"bbox/AP": 50.0} and set(stored.values) == {"bbox/AP"}
    assert stored.values["bbox/AP"] == pytest.approx(values[1:], abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("change", ["torn", "schema", "key", "short", "list"])
def test_malformed_files_are_named(tmp_path: Path, change: str) -> None:
    replicates = Replicates.draw([1, 2], draws=3)
    replicates.add({"top1": np.arange(4.0)})
    path = replicates.write(tmp_path)
    content = json.loads(path.read_text())
    if change == "schema":
        content["schema"] = 99
    elif change == "key":
        del content["images_sha256"]
    elif change == "short":
        content["replicates"]["top1"].pop()
    elif change == "list":
        content["replicates"] = {"top1": ["x"]}
    text = json.dumps(content)
    path.write_text(text[:40] if change == "torn" else text)
    with pytest.raises(InputError, match=str(path)):
        read_replicates(path)
