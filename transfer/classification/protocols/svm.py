"""The protocols `svm` and `svm_lowshot`: one linear SVM per class on frozen features.

The images have several labels. Both protocols are VISSL's (vissl/utils/svm_utils/svm_trainer.py,
svm_low_shot_trainer.py, evaluate.py; extra_scripts/create_low_shot_samples.py): scikit-learn's
LinearSVC with weights 2 : 1 for the positives, L2-normalised features, and the cost of each class
chosen by cross-validated AP. Legend: N training images, M test images, D features, C classes.
Targets (N, C) are 1 for present, 0 for absent, -1 for images to ignore.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from fvcore.common.config import CfgNode
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from transfer.classification.features.extract import Features
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OnFeatures,
    arrays,
    check_counts,
    open_objects,
)
from transfer.classification.score import Outcomes, Score

EPS = 1e-5  # VISSL adds it to the norm
LOW_SHOT = "svm_lowshot"


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens a detection set's images; raises InputError if no SVM can be trained on them."""
    node, low_shot = cfg.SVM, cfg.PROTOCOL.NAME == LOW_SHOT
    if not node.COSTS or not all(0 < cost < float("inf") for cost in node.COSTS):
        raise InputError(f"SVM.COSTS {tuple(node.COSTS)} must list numbers above 0")
    for key, lowest in (("FOLDS", 2), ("MAX_ITER", 1), ("WINDOW", 0)):
        if node[key] < lowest:
            raise InputError(f"SVM.{key} {node[key]} must be {lowest} or more")
    if low_shot:
        check_counts("SVM.SHOTS", node.SHOTS, "numbers of images")
    data = open_objects(cfg)
    targets, classes = data.train.labels.numpy(), data.train.classes
    check_targets(targets, data.test.labels.numpy(), node.FOLDS, classes)
    for shots in node.SHOTS if low_shot else ():
        sample_shots(targets, shots, cfg.SEED, classes)
    return data


def score(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Scores by mAP; the low-shot protocol gives one mAP per number of positive images."""
    if job.cfg.PROTOCOL.NAME == LOW_SHOT:
        return _score_low_shot(job, bank, queries, seed)
    node, names = job.cfg.SVM, job.train_set.classes
    result = evaluate_svm(
        *arrays(bank, queries),
        costs=[float(cost) for cost in node.COSTS],
        folds=node.FOLDS,
        max_iter=node.MAX_ITER,
    )
    return Score(
        {"mAP": result.mean_ap},
        {"mAP": dict(zip(names, result.per_class.tolist()))},
        notes={"cost": dict(zip(names, result.costs.tolist()))},
        outcomes=Outcomes(ranked={"mAP": (result.scores, queries.labels.numpy())}),
    )


def _score_low_shot(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    values, targets, test_values, test_targets = arrays(bank, queries)
    node = job.cfg.SVM
    costs = [float(cost) for cost in node.COSTS]
    metrics: dict[str, float] = {}
    notes: dict[str, dict[str, float]] = {}
    outcomes = Outcomes()
    for shots in node.SHOTS:
        name, drawn = f"shots{shots}_mAP", sample_shots(targets, shots, seed)
        found, scores = evaluate_low_shot(
            values, drawn, test_values, test_targets, costs=costs, max_iter=node.MAX_ITER
        )
        metrics[name] = float(found.max())
        outcomes.ranked[name] = (scores[found.argmax()], test_targets)
        notes[f"{name}_by_cost"] = dict(zip(map(str, costs), found.tolist()))
    return Score(metrics, {}, notes=notes, outcomes=outcomes)


PROTOCOL = OnFeatures(names=("svm", LOW_SHOT), check=check, score=score)


class SvmResult(NamedTuple):
    """Holds the SVMs of all classes.

    Attributes:
        per_class: AP of each class in percent.
        costs: the cost that was chosen for each class.
        scores: scores (M, C) of the test images; NaN for ignored images.
    """

    per_class: np.ndarray
    costs: np.ndarray
    scores: np.ndarray

    @property
    def mean_ap(self) -> float:
        """Returns the mean AP in percent."""
        return float(self.per_class.mean())


def normalize(features: np.ndarray) -> np.ndarray:
    """Returns each row (D,) divided by its L2 norm plus 1e-5, in float32."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / (norms + EPS)).astype(np.float32)


def average_precision(present: np.ndarray, scores: np.ndarray) -> float:
    """Returns the area under the interpolated precision-recall curve (not the 11-point mean).

    Args:
        present: (M,) bool.
        scores: (M,), higher is more certain.
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
    """Trains one SVM per class and tests it; its cost is chosen by cross-validation.

    As in VISSL, an ignored image counts as negative in training and is left out in testing.

    Args:
        values: (N, D), not normalised yet; `test_values`: (M, D).

    Raises:
        InputError: a class has fewer positive training images than folds, or none to test.
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
    """Draws the images of a low-shot run; returns its targets (N, C).

    For each class, `shots` positive images and (C - 1) times as many negative ones keep their
    target; the other images are ignored.

    Args:
        names: names of the classes, for the message.

    Raises:
        InputError: a class has fewer positive images than `shots`.
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
                    "remove the larger numbers"
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
    """Returns each cost's test mAP in percent (len(costs),), and its scores (len(costs), M, C).

    Ignored images are left out of training; as test images their score is NaN.

    The caller reports the best cost's mAP, as VISSL does: with few shots there are no images left
    on which a cost could be chosen, except the test images. VISSL takes the cost with the best mean
    over its draws; the best of each draw, as here, is never below it.
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
    """Raises InputError, naming the class, if its SVM cannot be trained or has no AP."""
    for c in range(targets.shape[1]):
        name = repr(names[c]) if names else c
        positives = int((targets[:, c] == 1).sum())
        if positives < folds:
            raise InputError(
                f"class {name} has {positives} positive training images, fewer than the {folds} "
                "folds of SVM.FOLDS; lower it, or train on more images"
            )
        if not (test_targets[:, c] == 1).any():
            raise InputError(
                f"class {name} has no positive test image, so its AP is not defined; add one"
            )


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
