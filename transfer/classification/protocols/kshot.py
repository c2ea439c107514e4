"""The protocol `kshot`: logistic regression on frozen features of k labelled images per class.

The classifier is that of facebookresearch/msn's logistic_eval.py: each feature vector minus its
mean, divided by its norm; multinomial logistic loss plus an L2 penalty; no intercept. The solver
there is cyanure, here it is scikit-learn's L-BFGS: the objective is convex, so both converge to the
same classifier. Each trial draws its own images. Legend: N images, M test images, D features, C
classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from fvcore.common.config import CfgNode
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pretrain.common.errors import InputError
from transfer.classification.features.extract import Features
from transfer.classification.metrics import hits
from transfer.classification.protocols.protocol import (
    ClassificationJob,
    Data,
    OnFeatures,
    arrays,
    check_counts,
    open_labelled,
)
from transfer.classification.score import Outcomes, Score

MAX_ITER = 1000


def check(cfg: CfgNode, trials: int) -> Data:
    """Opens the data and draws every trial's images: only their features are extracted."""
    check_shots(cfg.KSHOT.SHOTS, cfg.KSHOT.PENALTY)
    data = open_labelled(cfg)
    labels, most = data.train.labels.numpy(), max(cfg.KSHOT.SHOTS)
    seeds = [cfg.SEED + trial for trial in range(trials)]
    drawn = {seed: draw_shots(labels, most, seed, data.train.classes) for seed in seeds}
    union = np.unique(np.concatenate(list(drawn.values())))
    rows = {seed: np.searchsorted(union, indices) for seed, indices in drawn.items()}
    return replace(data, train=data.train.subset(union.tolist()), drawn=rows, drawn_from=data.train)


def score(job: ClassificationJob, bank: Features, queries: Features, seed: int) -> Score:
    """Fits a classifier on the trial's images for each number of them."""
    values, labels, test_values, _ = arrays(bank, queries)
    rows = job.drawn[seed].reshape(len(job.train_set.classes), -1)  # (C, the most shots)
    metrics: dict[str, float] = {}
    notes: dict[str, list[str]] = {}
    outcomes = Outcomes()
    for shots in job.cfg.KSHOT.SHOTS:
        name, chosen = f"shots{shots}", rows[:, :shots].ravel()
        penalty = job.cfg.KSHOT.PENALTY
        scores = fit_and_predict(values[chosen], labels[chosen], test_values, penalty)
        right = hits(torch.from_numpy(scores), queries.labels)
        metrics[f"{name}_top1"] = 100.0 * int(right.sum()) / len(right)
        outcomes.correct[f"{name}_top1"] = right.numpy()
        notes[name] = [job.train_set.images.name(int(row)) for row in chosen[:1000]]
    return Score(metrics, {}, notes=notes, outcomes=outcomes)


PROTOCOL = OnFeatures(names=("kshot",), check=check, score=score)


def standardize_rows(values: np.ndarray) -> np.ndarray:
    """Returns each row (D,) minus its mean, divided by its norm; a constant row becomes 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def draw_shots(labels: np.ndarray, shots: int, seed: int, names: Sequence[str] = ()) -> np.ndarray:
    """Returns the indices (C * shots,) of `shots` images of each class, class by class.

    With the same seed, a larger number of shots contains all images of a smaller one.

    Args:
        names: names of the classes, for the message.

    Raises:
        InputError: a class has fewer images than `shots`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for c in range(int(labels.max()) + 1):
        there = order[labels[order] == c]
        if len(there) < shots:
            name = repr(names[c]) if names else c
            raise InputError(
                f"KSHOT.SHOTS {shots}: class {name} has {len(there)} training images; lower it"
            )
        chosen.append(there[:shots])
    return np.concatenate(chosen)


def fit_and_predict(
    values: np.ndarray, labels: np.ndarray, test_values: np.ndarray, penalty: float
) -> np.ndarray:
    """Fits the classifier; returns the scores (M, C) of the test images.

    Args:
        penalty: penalty / 2 times the sum of the squared weights is added to the sum of the images'
            losses (MSN's --lambd, which it divides by N because cyanure uses the mean loss).
    """
    model = LogisticRegression(C=1.0 / penalty, fit_intercept=False, tol=1e-5, max_iter=MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standardize_rows(values), labels)
    scores = model.decision_function(standardize_rows(test_values))
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def check_shots(shots: Sequence[int], penalty: float) -> None:
    """Raises InputError for settings with which no classifier can be fitted."""
    check_counts("KSHOT.SHOTS", shots, "numbers of images")
    if not 0 < penalty < float("inf"):
        raise InputError(f"KSHOT.PENALTY {penalty} must be above 0")
