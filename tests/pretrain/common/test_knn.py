"""Weighted kNN and feature statistics against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.common.features import effective_rank, feature_std
from pretrain.common.knn import top_accuracy, weighted_knn


def slow_votes(bank: np.ndarray, labels: list, query: np.ndarray, k: int, t: float) -> list[float]:
    cosine = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosine[i])[:k]
    votes = [0.0] * (max(labels) + 1)
    for i in nearest:
        votes[labels[i]] += math.exp(cosine[i] / t)
    return votes


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_votes_equal_a_loop_over_sorted_neighbours(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(40, 5, generator=generator)
    queries = torch.randn(13, 5, generator=generator)
    labels = torch.arange(40) % 4
    votes = weighted_knn(
        bank, labels, queries, k=(3, 10), temperature=0.07, num_classes=4, chunk=chunk
    )
    for k in (3, 10):
        slow = [slow_votes(bank.numpy(), labels.tolist(), q.numpy(), k, 0.07) for q in queries]
        torch.testing.assert_close(votes[k], torch.tensor(slow), rtol=1e-3, atol=1e-3)


def test_top_accuracy_and_small_bank() -> None:
    votes = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([1, 2])
    assert top_accuracy(votes, labels) == 50.0
    assert top_accuracy(votes, labels, top=2) == 100.0
    with pytest.raises(InputError, match="bank of 2"):
        weighted_knn(votes, labels, votes, k=[3], temperature=1.0, num_classes=3)


def test_collapse_statistics() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(4000, 16, generator=generator)
    assert feature_std(spread) == pytest.approx(1 / 4, rel=0.02)
    assert effective_rank(spread) == pytest.approx(16, rel=0.02)
    collapsed = torch.ones(50, 16)
    assert feature_std(collapsed) == pytest.approx(0, abs=1e-6)
    line = torch.randn(100, 1, generator=generator) @ torch.randn(1, 16, generator=generator)
    assert effective_rank(line) == pytest.approx(1, rel=1e-3)
