"""SVMs against parts of scikit-learn and a slow AP; the choice of the cost; ignored images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from pretrain.common.errors import InputError
from transfer.classification.protocols.svm import (
    average_precision,
    evaluate_low_shot,
    evaluate_svm,
    normalize,
    sample_shots,
)

COSTS = (0.01, 1.0, 100.0)


def slow_ap(present: np.ndarray, scores: np.ndarray) -> float:
    """For every positive, the best precision at its recall or beyond; their mean."""
    ranked = [bool(p) for _, p in sorted(zip(scores, present), key=lambda pair: -pair[0])]
    points = []
    for last in range(1, len(ranked) + 1):
        found = sum(ranked[:last])
        points.append((found, found / last))
    total = sum(ranked)
    return sum(max(p for f, p in points if f >= k) for k in range(1, total + 1)) / total


def test_norms_as_vissls() -> None:
    """`features / (norm + 1e-5)`: short features do not reach length 1."""
    rows = normalize(np.array([[3e-6, 4e-6], [3.0, 4.0]]))
    assert rows[0] == pytest.approx([0.2, 4 / 15]) and rows[1] == pytest.approx([0.6, 0.8], 1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present, scores = rng.random(60) < 0.3, rng.normal(size=60)
    assert average_precision(present, scores) == pytest.approx(slow_ap(present, scores), abs=1e-12)
    assert average_precision(present, np.where(present, 1.0, 0.0) + scores / 100) == 1.0


def data(seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((images, 4)) < 0.3).astype(int)
    directions = np.random.default_rng(99).normal(size=(4, 16))
    values = 3 + targets @ directions + 1.5 * rng.normal(size=(images, 16))
    targets[rng.random(targets.shape) < 0.1] = -1
    return values.astype(np.float32), targets


def by_hand(values, targets, test_values, test_targets, c: int) -> tuple[float, float]:
    """(AP, cost) of one class with scikit-learn's folds written out."""
    unit = [v / (np.linalg.norm(v, axis=1)[:, None] + 1e-5) for v in (values, test_values)]
    x, t = (v.astype(np.float32) for v in unit)
    labels = np.array([1 if y == 1 else -1 for y in targets[:, c]])

    def fit(cost: float, rows: np.ndarray) -> LinearSVC:
        model = LinearSVC(
            C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0
        )
        return model.fit(x[rows], labels[rows])

    means = []
    for cost in COSTS:
        scores = []
        for rows, held in StratifiedKFold(3).split(x, labels):
            from sklearn.metrics import average_precision_score

            margin = fit(cost, rows).decision_function(x[held])
            scores.append(average_precision_score(labels[held] == 1, margin))
        means.append(np.mean(scores))
    cost = COSTS[int(np.argmax(means))]
    kept = test_targets[:, c] != -1
    margin = fit(cost, np.arange(len(x))).decision_function(t[kept])
    return 100 * slow_ap(test_targets[kept, c] == 1, margin), cost


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_against_the_folds_written_out() -> None:
    train, test = data(0, 120), data(1, 80)
    result = evaluate_svm(*train, *test, costs=COSTS)
    for c in range(4):
        ap, cost = by_hand(*train, *test, c)
        assert result.per_class[c] == pytest.approx(ap, abs=1e-6) and result.costs[c] == cost
    assert result.mean_ap == pytest.approx(result.per_class.mean())
    assert result.mean_ap > 60


def test_low_shot_samples_as_vissl_draws_them() -> None:
    _, targets = data(2, 200)
    sample = sample_shots(targets, 4, seed=1)
    for c in range(4):
        assert (sample[:, c] == 1).sum() == 4 and (sample[:, c] == 0).sum() == 12
        kept = sample[:, c] != -1
        assert np.array_equal(sample[kept, c], targets[kept, c])
    assert np.array_equal(sample, sample_shots(targets, 4, seed=1))
    assert not np.array_equal(sample, sample_shots(targets, 4, seed=2))
    # Each number of shots is a draw of its own, not a part of the larger one
    assert ((sample == 1) & (sample_shots(targets, 8, seed=1) != 1)).any()
    with pytest.raises(InputError, match="SVM.SHOTS 150: class 0"):
        sample_shots(targets, 150, seed=0)


def test_low_shot_leaves_ignored_images_out() -> None:
    train, test = data(3, 150), data(4, 80)
    shots = sample_shots(train[1], 8, seed=0)
    found, scores = evaluate_low_shot(train[0], shots, *test, costs=(1.0,))
    aps = []
    x, t = normalize(train[0]), normalize(test[0])
    for c in range(4):
        used, kept = shots[:, c] != -1, test[1][:, c] != -1
        model = LinearSVC(
            C=1.0, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0
        )
        model.fit(x[used], np.where(shots[used, c] == 1, 1, -1))
        aps.append(100 * slow_ap(test[1][kept, c] == 1, model.decision_function(t[kept])))
    assert found[0] == pytest.approx(np.mean(aps), abs=1e-6)
    assert np.array_equal(np.isnan(scores[0]), test[1] == -1)


def test_classes_without_positives() -> None:
    values, targets = data(5, 60)
    empty = targets.copy()
    empty[:, 2] = 0
    with pytest.raises(InputError, match="class 2 has 0 positive training images"):
        evaluate_svm(values, empty, values, targets, costs=COSTS)
    with pytest.raises(InputError, match="class 2 has no positive test image"):
        evaluate_svm(values, targets, values, empty, costs=COSTS)
