"""The linear probe against scikit-learn; heads that are trained together against single heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pretrain.common.errors import InputError
from transfer.classification.metrics import accuracy, hits
from transfer.classification.protocols import linear
from transfer.classification.protocols.linear import (
    Solver,
    choose_lr,
    standardize_,
    train_heads,
)


def _data(count: int, seed: int = 0, classes: int = 4, dim: int = 10):
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = np.arange(count) % classes
    features = centres[labels] + 1.2 * draws.normal(size=(count, dim))
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_against_scikit_learn() -> None:
    """Full-batch SGD to convergence finds the same L2-penalised solution."""
    features, labels = _data(400)
    decay = 1e-2
    solver = Solver(epochs=600, batch_size=400, weight_decay=decay)
    heads = train_heads(
        features, labels, [0.5 * 256 / 400], solver, num_classes=4, generator=_generator()
    )
    # mean CE + decay / 2 |w|^2 is scikit-learn's C * sum CE + |w|^2 / 2 with C = 1 / (decay N)
    reference = LogisticRegression(C=1 / (decay * 400), tol=1e-8, max_iter=2000)
    reference.fit(features.numpy(), labels.numpy())
    test, test_labels = _data(1000, seed=1)
    ours = heads.logits(test)[0].softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(test.numpy()), atol=5e-3)
    expected = 100 * reference.score(test.numpy(), test_labels.numpy())
    assert accuracy(heads.logits(test)[0], test_labels) == pytest.approx(expected, abs=0.3)


def test_minibatch_sgd_is_near_scikit_learn() -> None:
    features, labels = _data(400)
    test, test_labels = _data(1000, seed=1)
    reference = LogisticRegression(C=100.0, max_iter=2000).fit(features.numpy(), labels.numpy())
    solver = Solver(epochs=60, batch_size=64)
    heads = train_heads(features, labels, [0.3], solver, num_classes=4, generator=_generator())
    expected = 100 * reference.score(test.numpy(), test_labels.numpy())
    assert accuracy(heads.logits(test)[0], test_labels) == pytest.approx(expected, abs=1.5)
    assert heads.curve[-1]["loss"] < heads.curve[0]["loss"]


def test_heads_together_equal_heads_alone() -> None:
    features, labels = _data(90)
    solver, test = Solver(epochs=5, batch_size=32, weight_decay=1e-3), _data(20, seed=1)[0]
    rates = [0.01, 0.3, 2.0]
    together = train_heads(
        features, labels, rates, solver, num_classes=4, generator=_generator(3)
    ).logits(test)
    assert together.shape == (3, 20, 4)
    for lr, logits in zip(rates, together):
        alone = train_heads(features, labels, [lr], solver, num_classes=4, generator=_generator(3))
        torch.testing.assert_close(alone.logits(test)[0], logits)


def test_gradient_is_that_of_autograd() -> None:
    """One step on one batch: the weights are -lr times autograd's gradient."""
    features, labels = _data(32)
    heads = train_heads(
        features, labels, [0.8], Solver(1, 32), num_classes=4, generator=_generator()
    )
    weight = torch.zeros(10, 4, requires_grad=True)
    torch.nn.functional.cross_entropy(features @ weight, labels).backward()
    torch.testing.assert_close(heads.weight, -0.8 * 32 / 256 * weight.grad)


@pytest.mark.parametrize("batch_size", [32, 500])
def test_steps_are_those_of_torchs_sgd(batch_size: int) -> None:
    """A cosine over all steps; the rate is that of the batch, of all images where they are fewer;
    the last batch's mean is over its own images."""
    features, labels = _data(90)
    solver = Solver(epochs=3, batch_size=batch_size, weight_decay=1e-2)
    heads = train_heads(features, labels, [2.0], solver, num_classes=4, generator=_generator(5))
    model = torch.nn.Linear(10, 4)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    groups = [{"params": [model.weight], "weight_decay": 1e-2}, {"params": [model.bias]}]
    batch = min(batch_size, 90)
    sgd = torch.optim.SGD(groups, lr=2.0 * batch / 256, momentum=0.9)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, 3 * -(-90 // batch))
    draws = _generator(5)
    for _ in range(3):
        for index in torch.randperm(90, generator=draws).split(batch):
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(model(features[index]), labels[index]).backward()
            sgd.step()
            cosine.step()
    torch.testing.assert_close(heads.weight, model.weight.detach().T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(heads.bias, model.bias.detach(), rtol=1e-4, atol=1e-5)


def test_choice_takes_the_best_and_extends_the_edge() -> None:
    features, labels = _data(200)
    lr, scores = choose_lr(
        features,
        labels,
        [1e-6, 3e-6],
        Solver(3, 64),
        num_classes=4,
        holdout=0.2,
        generator=_generator(),
    )
    assert scores[lr] == max(scores.values())
    assert len(scores) >= 2 and list(scores) == sorted(scores)
    diverging, scores = choose_lr(
        features * 50,
        labels,
        [1e-3, 1e38],
        Solver(3, 64),
        num_classes=4,
        holdout=0.2,
        generator=_generator(),
    )
    assert diverging < 1 and scores[1e38] == 0.0


def test_standardize_as_batchnorm() -> None:
    train, _ = _data(60)
    test, _ = _data(20, seed=1)
    layer = torch.nn.BatchNorm1d(10, affine=False, eps=1e-6, momentum=1.0).train()
    expected_train = layer(train)
    layer.running_var *= 59 / 60  # torch keeps the unbiased variance for evaluation
    expected_test = layer.eval()(test)
    standardize_(train, test)
    torch.testing.assert_close(train, expected_train)
    torch.testing.assert_close(test, expected_test)


def test_some_rows_train_as_a_copy_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _data(90)
    rows = torch.randperm(90, generator=_generator(5))[:60]
    common = {"num_classes": 4, "solver": Solver(3, 16), "lrs": [0.1, 1.0]}
    some = train_heads(features, labels, rows=rows, generator=_generator(), **common)
    copied = train_heads(features[rows], labels[rows], generator=_generator(), **common)
    assert torch.equal(some.weight, copied.weight)
    whole = some.hits(features, labels, rows, (1, 2))
    monkeypatch.setattr(linear, "LOGITS", 8 * 7)  # 7 rows at once
    assert torch.equal(some.hits(features, labels, rows, (1, 2)), whole)
    for top, found in zip((1, 2), whole):
        expected = [hits(logits, labels[rows], top) for logits in some.logits(features[rows])]
        assert torch.equal(found, torch.stack(expected))


def test_bad_input() -> None:
    with pytest.raises(InputError, match="SOLVER.EPOCHS"):
        Solver(0, 1)
