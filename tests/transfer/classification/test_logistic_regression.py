"""Logistic regression against scikit-learn on seeded random features, and whether it converged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from transfer.classification.logistic_regression import fit_logistic, rotate

EXACT = {"tolerance": 1e-7, "most": 1000}


def features(seed: int, count: int = 80, dims: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    """Classes that overlap, on features of different sizes and means."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = rng.normal(size=(classes, dims))
    values = centres[labels] + rng.normal(size=(count, dims))
    values = values * np.geomspace(0.1, 10, dims) + rng.normal(size=dims)
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 1.0, 100.0, 1e5])
def test_multinomial_is_scikit_learns(penalty: float) -> None:
    values, labels = features(0)
    found = fit_logistic(rotate(values), labels, classes=4, penalty=penalty, **EXACT)
    assert found.converged
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=100_000)
    theirs.fit(values.double().numpy(), labels.numpy())
    assert np.allclose(found.weight.T.numpy(), theirs.coef_, rtol=1e-3, atol=1e-5)
    # The softmax does not change if one number is added to all intercepts.
    bias = found.bias.numpy() - found.bias.numpy().mean()
    assert np.allclose(bias, theirs.intercept_ - theirs.intercept_.mean(), rtol=1e-3, atol=1e-4)
    ours = found.scores(values).softmax(dim=1).numpy()
    assert np.allclose(ours, theirs.predict_proba(values.double().numpy()), atol=1e-5)


def test_binary_classifiers_are_scikit_learns_without_the_images_left_out() -> None:
    values, labels = features(1)
    rng = np.random.default_rng(2)
    targets = torch.from_numpy(rng.integers(-1, 2, (len(labels), 3)))
    found = fit_logistic(rotate(values), targets, classes=3, penalty=0.5, **EXACT)
    assert found.converged
    for c in range(3):
        used = (targets[:, c] != -1).numpy()
        theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=100_000)
        theirs.fit(values.double().numpy()[used], targets[:, c].numpy()[used])
        assert np.allclose(found.weight[:, c].numpy(), theirs.coef_[0], rtol=1e-3, atol=1e-5)
        assert found.bias[c].item() == pytest.approx(theirs.intercept_[0], rel=1e-3, abs=1e-4)


def test_the_gradient_is_below_the_tolerance_by_hand() -> None:
    """From the definition, with autograd; a looser tolerance takes fewer iterations."""
    values, labels = features(3)
    loose = fit_logistic(rotate(values), labels, classes=4, penalty=0.1, tolerance=1e-3, most=1000)
    tight = fit_logistic(rotate(values), labels, classes=4, penalty=0.1, tolerance=1e-7, most=1000)
    assert loose.evaluations < tight.evaluations
    for fit, tolerance in ((loose, 1e-3), (tight, 1e-7)):
        weight, bias = (part.clone().requires_grad_() for part in (fit.weight, fit.bias))
        logits = values.double() @ weight + bias
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        ((loss + 0.05 * (weight**2).sum()) / len(labels)).backward()
        assert fit.converged
        assert max(weight.grad.abs().max(), bias.grad.abs().max()) <= tolerance * 1.01


def test_a_fit_that_ends_early_says_so() -> None:
    values, labels = features(4)
    found = fit_logistic(rotate(values), labels, classes=4, penalty=1e-6, tolerance=1e-9, most=3)
    assert not found.converged and 3 <= found.evaluations < 30


def test_fits_do_not_depend_on_each_other() -> None:
    """No warm start: the same penalty gives the same bits, whatever was fitted before."""
    values, labels = features(5)
    options = {"classes": 4, "tolerance": 1e-4, "most": 100}
    first = fit_logistic(rotate(values), labels, penalty=0.1, **options)
    fit_logistic(rotate(values), labels, penalty=1e-6, **options)
    again = fit_logistic(rotate(values), labels, penalty=0.1, **options)
    assert torch.equal(first.weight, again.weight) and torch.equal(first.bias, again.bias)
