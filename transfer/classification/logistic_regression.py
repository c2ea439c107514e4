"""L2-regularised logistic regression, minimised to a tolerance by L-BFGS, on any device.

The objective is the sum of the images' losses plus penalty / 2 times the sum of the squared
weights, as in scikit-learn (its C is 1 / penalty); the intercept has no penalty. google-research's
linear_eval does not divide by 2: its strengths are half of these. Each fit starts at zero and says
whether it has converged, so its result does not depend on the order of the fits or on a limit of
iterations that is reached unnoticed. Everything is float64.

A network's features vary much more along some axes than along others: with a small penalty, plain
L-BFGS needs thousands of evaluations on them. `rotate` turns them to their principal axes, once for
all penalties, and a fit scales each axis by the curvature that the objective has along it at the
start. Both change only the path of the search: the objective and its minimum are the same.

Legend: N images, D features, R axes (at most N - 1 and D), C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor

MEMORY = 20  # pairs of steps and gradients that L-BFGS keeps
ROUNDING = 1e-13  # an axis with less than this share of the largest one's energy is rounding error


class Rotated(NamedTuple):
    """Holds training features on their principal axes, float64: values - mean is `places` @ axes.T.

    Attributes:
        mean: (D,); axes: (D, R), orthonormal; places: (N, R).
    """

    mean: Tensor
    axes: Tensor
    places: Tensor


class Classifier(NamedTuple):
    """Is a fitted classifier.

    Attributes:
        weight: (D, C) float64; bias: (C,).
        converged: whether the norm of the gradient is at most the tolerance.
        evaluations: number of evaluations of the objective and its gradient.
    """

    weight: Tensor
    bias: Tensor
    converged: bool
    evaluations: int

    def scores(self, values: Tensor) -> Tensor:
        """Maps features (M, D) to scores (M, C) float64."""
        return values.double() @ self.weight + self.bias


class _Converged(Exception):
    """The gradient is small enough."""


def rotate(values: Tensor) -> Rotated:
    """Returns features (N, D) on their principal axes; axes without any energy are left out.

    The best weights are zero along those: other values would cost a penalty and change no score.
    """
    values = values.double()
    mean = values.mean(dim=0)
    energy, axes = torch.linalg.eigh((values - mean).T @ (values - mean))
    axes = axes[:, energy > ROUNDING * energy.max()]
    return Rotated(mean, axes, (values - mean) @ axes)


def fit_logistic(
    features: Rotated, labels: Tensor, *, classes: int, penalty: float, tolerance: float, most: int
) -> Classifier:
    """Fits one multinomial classifier, or one binary classifier for each class.

    Args:
        labels: (N,) int64, a class for each image: multinomial. (N, C), 1 present, 0 absent, -1
            left out: the binary classifiers, which share the penalty.
        tolerance: the largest norm of the gradient of the objective, divided by N.
        most: the largest number of evaluations of the objective.
    """
    places, count = features.places, len(features.places)
    single = labels.dim() == 1
    targets = F.one_hot(labels, classes).double() if single else (labels == 1).double()
    used = None if single else (labels >= 0).double()
    # The curvature of the losses at weights of 0, and that of the penalty
    spread = (1 - 1 / classes) / classes if single else 0.25
    scale = (spread * (places**2).sum(dim=0) + penalty).rsqrt()[:, None]  # (R, 1)
    free = (spread * count) ** -0.5  # for the intercept
    best, taken = places.new_zeros(len(scale) + 1, classes), 0

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, taken
        taken += 1
        both = torch.from_numpy(flat).to(places.device).view(-1, classes)
        weight, bias = both[:-1] * scale, both[-1] * free
        loss, residual = _loss_and_residual(places @ weight + bias, targets, used)
        slope, rise = places.T @ residual + penalty * weight, residual.sum(dim=0)
        if (slope.norm() ** 2 + rise.norm() ** 2).sqrt() <= tolerance * count:
            best = torch.cat([weight, bias[None]])
            raise _Converged
        gradient = torch.cat([slope * scale, (rise * free)[None]])
        total = loss + penalty / 2 * (weight**2).sum()
        return total.item(), gradient.flatten().cpu().numpy()

    # Neither the objective nor the scaled gradient ends the search, only `_Converged` and `most`.
    options = {"maxiter": most, "maxfun": most, "maxcor": MEMORY, "ftol": 0.0, "gtol": 0.0}
    begin = np.zeros(best.numel())
    converged = False
    try:
        found = minimize(value_and_gradient, begin, jac=True, method="L-BFGS-B", options=options)
        both = torch.from_numpy(found.x).to(places.device).view(-1, classes)
        best = torch.cat([both[:-1] * scale, both[-1:] * free])
    except _Converged:
        converged = True
    weight = features.axes @ best[:-1]
    return Classifier(weight, best[-1] - features.mean @ weight, converged, taken)


def _loss_and_residual(
    logits: Tensor, targets: Tensor, used: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Returns the sum of the losses, and its derivative by the logits, (N, C).

    Args:
        targets: (N, C) of zeros and ones.
        used: (N, C), 1 for images that count, for binary classifiers; None: multinomial.
    """
    if used is None:
        loss = (logits.logsumexp(dim=1) - (logits * targets).sum(dim=1)).sum()
        return loss, logits.softmax(dim=1) - targets
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * used).sum(), (logits.sigmoid() - targets) * used
