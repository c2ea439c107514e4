"""One-against-rest linear SVMs on frozen features of images with several labels.

Legend: N training images, M test images, D features, C classes. Targets (N, C): 1 present,
0 absent, -1 to ignore. The protocol is VISSL's (vissl/utils/svm_utils/svm_trainer.py,
svm_low_shot_trainer.py, evaluate.py; extra_scripts/create_low_shot_samples.py): scikit-learn's
LinearSVC with weights 2 : 1 for the positives, L2-normalised features, the cost of each class by
cross-validated AP.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from pretrain.common.errors import InputError
from pretrain.common.logs import progress

EPS = 1e-5  # VISSL adds it to the norm


class SvmResult(NamedTuple):
    """Attributes: per_class: AP in percent; costs: chosen, per class; scores: (M, C) of the test
    images, NaN where they are ignored."""

    per_class: np.ndarray
    costs: np.ndarray
    scores: np.ndarray

    @property
    def mean_ap(self) -> float:
        """mAP in percent."""
        return float(self.per_class.mean())


def normalize(features: np.ndarray) -> np.ndarray:
    """Each row (D,) by its L2 norm plus 1e-5, in float32."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / (norms + EPS)).astype(np.float32)


def average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    """Area under the interpolated precision-recall curve, 0 to 1 (not the 11-point mean).

    Args:
        present: (M,) bool; scores: (M,), higher is more certain.
    """
    order = np.argsort(scores)[::-1]
    hits = present[order].astype(np.float64)
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    recall = found / hits.sum()
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * best))


def evaluate_svm(
    values: np.ndarray,
    targets: np.ndarray,
    test_values: np.ndarray,
    test_targets: np.ndarray,
    *,
    costs: Sequence[float],
    folds: int = 3,
    max_iter: int = 2000,
) -> SvmResult:
    """One SVM per class: cost by cross-validation on the training images, AP on the test images.

    In training an ignored image counts as a negative one, in testing it is left out, as in VISSL.

    Args:
        values: (N, D), test_values: (M, D), not normalised yet.

    Raises:
        InputError: a class with fewer positive training images than folds, or none to test.
    """
    check_targets(targets, test_targets, folds)
    values, test_values = normalize(values), normalize(test_values)
    aps, chosen, scores = [], [], np.full(test_targets.shape, np.nan)
    with progress(range(targets.shape[1]), desc="SVMs", unit="class") as classes:
        for c in classes:
            labels = np.where(targets[:, c] == 1, 1, -1)
            judged = [_cross_validate(values, labels, cost, folds, max_iter) for cost in costs]
            chosen.append(costs[int(np.argmax(judged))])
            kept = test_targets[:, c] != -1
            model = _fit(values, labels, chosen[-1], max_iter)
            scores[kept, c] = model.decision_function(test_values[kept])
            aps.append(100.0 * average_precision(test_targets[kept, c] == 1, scores[kept, c]))
    return SvmResult(np.array(aps), np.array(chosen), scores)


def sample_shots(
    targets: np.ndarray, shots: int, seed: int, names: Sequence[str] = ()
) -> np.ndarray:
    """Targets of a low-shot run (N, C): per class `shots` positive and (C - 1) times as many
    negative images keep theirs, all others are ignored.

    Raises:
        InputError: a class (of these names) with fewer positive images.
    """
    rng = np.random.default_rng((seed, shots))
    out = np.full_like(targets, -1)
    for c in range(targets.shape[1]):
        for label, count in ((1, shots), (0, (targets.shape[1] - 1) * shots)):
            there = np.flatnonzero(targets[:, c] == label)
            if label == 1 and len(there) < count:
                name = repr(names[c]) if names else c
                raise InputError(
                    f"SVM.SHOTS {shots}: class {name} has {len(there)} positive training images; "
                    "leave the larger numbers out"
                )
            out[rng.choice(there, min(count, len(there)), replace=False), c] = label
    return out


def evaluate_low_shot(
    values: np.ndarray,
    targets: np.ndarray,
    test_values: np.ndarray,
    test_targets: np.ndarray,
    *,
    costs: Sequence[float],
    max_iter: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """Test mAP in percent of every cost (len(costs),), and the images' scores (len(costs), M, C).

    Ignored images are left out of training; as test images their score is NaN.

    VISSL reports the best cost's: few shots leave no image to choose it on but the test's. It takes
    the cost with the best mean over its draws; the best of each draw, as here, is never below it.
    """
    values, test_values = normalize(values), normalize(test_values)
    out = np.zeros((len(costs), targets.shape[1]))
    scores = np.full((len(costs), *test_targets.shape), np.nan)
    for c in range(targets.shape[1]):
        used, kept = targets[:, c] != -1, test_targets[:, c] != -1
        labels = np.where(targets[used, c] == 1, 1, -1)
        for place, cost in enumerate(costs):
            model = _fit(values[used], labels, cost, max_iter)
            scores[place, kept, c] = model.decision_function(test_values[kept])
            present = test_targets[kept, c] == 1
            out[place, c] = 100.0 * average_precision(present, scores[place, kept, c])
    return out.mean(axis=1), scores


def check_targets(
    targets: np.ndarray, test_targets: np.ndarray, folds: int, names: Sequence[str] = ()
) -> None:
    """Raises InputError, naming the class, where an SVM or its AP cannot be had."""
    for c in range(targets.shape[1]):
        name = repr(names[c]) if names else c
        positives = int((targets[:, c] == 1).sum())
        if positives < folds:
            raise InputError(
                f"class {name} has {positives} positive training images, fewer than the {folds} "
                "folds of SVM.FOLDS: lower it, or train on more images"
            )
        if not (test_targets[:, c] == 1).any():
            raise InputError(f"class {name} has no positive test image: its AP is not defined")


def _cross_validate(
    values: np.ndarray, labels: np.ndarray, cost: float, folds: int, max_iter: int
) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # VISSL's 2000 iterations are few
        model = _model(cost, max_iter)
        scores = cross_val_score(model, values, labels, cv=folds, scoring="average_precision")
    return float(scores.mean())


def _fit(values: np.ndarray, labels: np.ndarray, cost: float, max_iter: int) -> LinearSVC:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _model(cost, max_iter).fit(values, labels)


def _model(cost: float, max_iter: int) -> LinearSVC:
    return LinearSVC(
        C=cost,
        class_weight={1: 2, -1: 1},
        intercept_scaling=1.0,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        max_iter=max_iter,
        random_state=0,
    )
