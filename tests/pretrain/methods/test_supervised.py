"""Supervised training against the written-out cross-entropy of a linear classifier."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pretrain.methods.supervised import Supervised

LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


@pytest.fixture
def method(parts: Callable) -> Supervised:
    trunk, _ = parts("simclr", dtype=torch.float32)
    return Supervised(trunk, 6, 3)


def test_loss_and_gradients(method: Supervised, views: Callable, same_step: Callable) -> None:
    (images,) = views(1, dtype=torch.float32)

    def slow(copied: Supervised) -> Tensor:
        features = copied.trunk(images)
        logits = features @ copied.classifier.weight.T + copied.classifier.bias
        losses = [
            torch.log(torch.exp(row).sum()) - row[label] for row, label in zip(logits, LABELS)
        ]
        return sum(losses) / len(losses)

    call = lambda m: m([images], [0], labels=LABELS)["loss"]
    same_step(method, call, slow, rtol=1e-4, atol=1e-6)
    assert all(p.grad is not None for p in method.parameters())


def test_top1_is_a_percentage_of_the_batch(method: Supervised, views: Callable) -> None:
    (images,) = views(1, dtype=torch.float32)
    guesses = method.classifier(method.trunk(images)).argmax(dim=1)
    labels = torch.where(torch.arange(6) < 2, guesses, (guesses + 1) % 3)  # two of six are right
    result = method([images], [0], labels=labels)
    assert result["terms"]["top1"].item() == pytest.approx(100 * 2 / 6)
    torch.testing.assert_close(result["terms"]["cross_entropy"], result["loss"].detach())
    torch.testing.assert_close(result["features"], method.trunk(images).detach())


def test_labels_are_needed(method: Supervised, views: Callable) -> None:
    with pytest.raises(ValueError, match="needs labels"):
        method(views(1, dtype=torch.float32), [0])
