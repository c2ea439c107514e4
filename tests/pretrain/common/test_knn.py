"""Weighted kNN and feature statistics against slow references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pretrain.common.collapse_statistics import effective_rank, feature_std, singular_values
from pretrain.common.errors import InputError
from pretrain.common.knn import label_rank, nearest_neighbours, top_accuracy, weighted_knn


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


def slow_neighbours(bank: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """(M, k) rows in float64; of equal similarities the lower row first."""
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    similarity = unit[1].astype(np.float64) @ unit[0].astype(np.float64).T
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("chunk, block", [(1, 3), (7, 50), (64, 64), (1000, 1000)])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_neighbours_are_those_of_float64(chunk: int, block: int, k: int) -> None:
    draws = np.random.default_rng(k)
    bank, queries = draws.normal(size=(300, 24)), draws.normal(size=(40, 24))
    found = nearest_neighbours(
        torch.tensor(bank), torch.tensor(queries), k, chunk=chunk, block=block
    )
    assert np.array_equal(found.index.numpy(), slow_neighbours(bank, queries, k))
    assert (found.similarity.diff(dim=1) <= 0).all()


def test_a_bank_whose_best_rows_come_last() -> None:
    """Every later block is nearer: all of it has to be taken in."""
    angle = torch.linspace(1.5, 0.0, 500, dtype=torch.float64)
    bank = torch.stack([angle.cos(), angle.sin()], dim=1)
    query = torch.tensor([[1.0, 0.0]])
    found = nearest_neighbours(bank, query, 5, block=100)
    assert found.index.tolist() == [[499, 498, 497, 496, 495]]


@pytest.mark.parametrize("block", [4, 16, 33, 400])
def test_ties_go_to_the_lower_row(block: int) -> None:
    """Rows of 16 times +-1 have norms and products that are exact, and many ties."""
    draws = np.random.default_rng(1)
    bank, queries = (draws.choice([-1.0, 1.0], (n, 16)) for n in (400, 60))
    similarity = queries @ bank.T
    for k in (1, 10, 150):
        expected = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        found = nearest_neighbours(torch.tensor(bank), torch.tensor(queries), k, block=block)
        assert np.array_equal(found.index.numpy(), expected)
        last = np.take_along_axis(similarity, expected[:, -1:], axis=1)
        assert ((similarity >= last).sum(axis=1) > k).any()  # ties at the k-th place


def test_a_half_precision_bank_moves_similarities_by_little() -> None:
    """Rounding to float16 moves a unit vector by at most 2^-11 of its length."""
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(2000, 64, generator=generator)
    queries = torch.randn(50, 64, generator=generator)
    exact, half = (nearest_neighbours(b, queries, 20) for b in (bank, bank.half()))
    assert (exact.similarity - half.similarity).abs().max() < 2**-11
    same = [len(set(a) & set(b)) for a, b in zip(exact.index.tolist(), half.index.tolist())]
    assert np.mean(same) / 20 > 0.99


def test_a_bank_on_disk_is_streamed(tmp_path) -> None:
    draws = np.random.default_rng(0)
    bank, queries = draws.normal(size=(100, 8)), draws.normal(size=(9, 8))
    np.save(tmp_path / "bank.npy", bank.astype(np.float16))
    mapped = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="r+"))
    found = nearest_neighbours(mapped, torch.tensor(queries), 10, block=16)
    expected = slow_neighbours(bank.astype(np.float16).astype(np.float64), queries, 10)
    assert np.array_equal(found.index.numpy(), expected)


def test_equal_votes_go_to_the_lower_class_and_no_vote_is_never_right() -> None:
    votes = torch.tensor([[2.0, 0.0, 2.0, 0.0]] * 4 + [[float("nan")] * 4])
    assert label_rank(votes, torch.tensor([0, 1, 2, 3, 0])).tolist() == [0, 4, 1, 4, 4]


def test_labels_out_of_range() -> None:
    features, labels = torch.eye(3), torch.tensor([0, 1, 3])
    with pytest.raises(InputError, match="from 0 to 3, but there are 3 classes"):
        weighted_knn(features, labels, features, k=[1], temperature=1.0, num_classes=3)


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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_of_a_diverged_run_have_no_rank_and_raise_nothing(value: float) -> None:
    features = torch.randn(6, 4)
    features[2, 1] = value
    assert singular_values(features).isnan().tolist() == [True] * 4
    assert math.isnan(effective_rank(features))
