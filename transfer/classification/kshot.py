"""Logistic regression on frozen features of k labelled images per class.

Legend: N images, D features, C classes. The classifier is that of facebookresearch/msn's
logistic_eval.py: each feature vector minus its mean, divided by its norm; multinomial logistic loss
plus an L2 penalty, no intercept. Its solver there is cyanure, here scikit-learn's L-BFGS: the
objective is convex, so that both end at the same classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pretrain.common.errors import InputError

MAX_ITER = 1000


def standardize_rows(values: np.ndarray) -> np.ndarray:
    """Each row (D,) centred and of norm 1; a constant row becomes 0."""
    centred = values - values.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def draw_shots(labels: np.ndarray, shots: int, seed: int, names: Sequence[str] = ()) -> np.ndarray:
    """Indices (C * shots,) of `shots` images of each class, class by class.

    The same seed gives a larger number of shots the images of a smaller one and more.

    Raises:
        InputError: a class (of these names) has fewer images.
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
    """Scores (M, C) of the test images.

    Args:
        penalty: of the sum of the images' losses, penalty / 2 times the squared weights (MSN's
            --lambd, which it divides by N because cyanure takes the mean of the losses).
    """
    model = LogisticRegression(C=1.0 / penalty, fit_intercept=False, tol=1e-5, max_iter=MAX_ITER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(standardize_rows(values), labels)
    scores = model.decision_function(standardize_rows(test_values))
    return np.stack([-scores, scores], axis=1) if scores.ndim == 1 else scores


def check_shots(shots: Sequence[int], penalty: float) -> None:
    """Raises InputError for settings that no classifier can be fitted with."""
    if not shots or min(shots) < 1:
        raise InputError(f"KSHOT.SHOTS {tuple(shots)} must list numbers of images from 1")
    if penalty <= 0:
        raise InputError(f"KSHOT.PENALTY {penalty} must be above 0")
