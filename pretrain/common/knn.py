"""Weighted k-nearest-neighbour classification of features, chunked.

N bank rows, M queries, D dimensions, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.common.errors import InputError


def weighted_knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int,
    chunk: int = 1024,
) -> dict[int, Tensor]:
    """Class votes of the k most similar bank rows, each weighted by exp(cosine / temperature).

    As in DINO's eval_knn.py, after Wu et al. 2018 (Instance Discrimination).

    Args:
        train_features: (N, D); both feature sets are L2-normalised here.
        train_labels: (N,) int64 in 0..C-1.
        test_features: (M, D).
        k: neighbourhood sizes, all answered from one similarity pass.
        chunk: queries per similarity matrix; bounds memory at chunk x N.

    Returns:
        For each k the votes (M, C), float32.

    Raises:
        InputError: a k larger than the bank.
    """
    if max(k) > len(train_features):
        raise InputError(f"k = {max(k)} neighbours asked of a bank of {len(train_features)} images")
    bank = normalize(train_features.float(), dim=1)
    queries = normalize(test_features.float(), dim=1)
    votes: dict[int, list[Tensor]] = {size: [] for size in k}
    for part in queries.split(chunk):
        similarity, index = (part @ bank.T).topk(max(k), dim=1)
        weights = (similarity / temperature).exp()
        neighbours = train_labels[index]
        for size in k:
            tally = weights.new_zeros(len(part), num_classes)
            tally.scatter_add_(1, neighbours[:, :size], weights[:, :size])
            votes[size].append(tally)
    return {size: torch.cat(parts) for size, parts in votes.items()}


def top_accuracy(votes: Tensor, labels: Tensor, top: int = 1) -> float:
    """Percentage of rows of votes (M, C) whose label is among the `top` highest."""
    best = votes.topk(min(top, votes.shape[1]), dim=1).indices
    return 100.0 * (best == labels[:, None]).any(dim=1).sum().item() / len(labels)
