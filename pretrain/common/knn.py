"""Weighted k-nearest-neighbour classification of features, in bounded memory.

Legend: N bank rows, M queries, D dimensions, C classes, k neighbours.

The bank is read in blocks. Each block is compared with the queries chunk by chunk, and only the
best k of all blocks so far are kept. In addition to the inputs, memory holds one block, one matrix
of chunk x block similarities, the queries in float32 and M x k results. So the bank may be float16,
be on the host while the work is done on a GPU, or be mapped from a file.

Ties: if similarities (float32) are equal, the lower bank row is nearer. If classes have equal
votes, the lower class wins, on every device. A class without a vote is never among the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.common.errors import InputError

QUERY_CHUNK, BANK_BLOCK = 1024, 4096  # 16 MB of similarities
MANY = 4  # sorting more than MANY * k candidates takes longer than topk over the block


@dataclass(frozen=True)
class Neighbours:
    """Holds the k nearest bank rows of each query, nearest first.

    Attributes: similarity: cosines (M, k) float32; index: rows of the bank (M, k) int64.
    """

    similarity: Tensor
    index: Tensor


def nearest_neighbours(
    bank: Tensor,
    queries: Tensor,
    k: int,
    *,
    device: torch.device | None = None,
    chunk: int = QUERY_CHUNK,
    block: int = BANK_BLOCK,
) -> Neighbours:
    """Returns the exact k most cosine-similar rows of the bank, by float32 products.

    Args:
        bank: (N, D), queries: (M, D), of any float dtype; both are L2-normalised here in float32.
        device: the device of the computation and of the result; None: the device of the queries.
        chunk, block: rows of queries and bank per product.

    Raises:
        InputError: k is 0, or larger than the bank.
    """
    if not 1 <= k <= len(bank):
        raise InputError(
            f"k = {k} neighbours cannot come from a bank of {len(bank)} images; give a k from 1 to "
            f"{len(bank)}"
        )
    device = device or queries.device
    unit = normalize(queries.to(device).float(), dim=1)
    best: dict[int, Neighbours] = {}
    for start in range(0, len(bank), block):
        rows = normalize(bank[start : start + block].to(device).float(), dim=1)
        for place, part in enumerate(unit.split(chunk)):
            best[place] = _join(best.get(place), part @ rows.T, k, start)
    return Neighbours(
        torch.cat([found.similarity for found in best.values()]),
        torch.cat([found.index for found in best.values()]),
    )


def _join(best: Neighbours | None, similarity: Tensor, k: int, start: int) -> Neighbours:
    """Returns the best k of `best` and of a new block (m, n), whose column c is bank row start
    + c.
    """
    if best is None:
        return _top(similarity, k, start)
    if best.similarity.shape[1] < k:
        return _merge(best, _top(similarity, k, start), k)
    # Few columns of a later block beat the k-th so far; equal ones lose, as their rows are higher.
    better = similarity > best.similarity[:, -1:]
    row, column = better.nonzero(as_tuple=True)
    counts = better.sum(dim=1)  # `bincount` would make the host wait for a GPU once more
    width = int(counts.max())
    if width > MANY * k:  # usually a bank sorted by class
        return _merge(best, _top(similarity, k, start), k)
    values = similarity.new_full((len(similarity), width), -torch.inf)
    index = torch.zeros_like(values, dtype=torch.int64)
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    values[row, place], index[row, place] = similarity[row, column], column + start
    return _merge(best, Neighbours(values, index), k)


def _top(similarity: Tensor, k: int, start: int) -> Neighbours:
    """Returns the best min(k, n) of each row of (m, n), in order; column c is bank row start +
    c.
    """
    k = min(k, similarity.shape[1])
    values, index = similarity.topk(k, dim=1)
    # If columns tie for the last place, topk takes any of them: such rows are sorted completely.
    tied = ((similarity >= values[:, -1:]).sum(dim=1) > k).nonzero()[:, 0]
    if len(tied):
        ordered, columns = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], index[tied] = ordered[:, :k], columns[:, :k]
    index, order = index.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return Neighbours(values, index.gather(1, order) + start)


def _merge(best: Neighbours, new: Neighbours, k: int) -> Neighbours:
    """Returns the best k of both. Rows of `new` are higher: a stable sort puts lower rows first in
    ties.
    """
    values = torch.cat([best.similarity, new.similarity], dim=1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    index = torch.cat([best.index, new.index], dim=1).gather(1, order[:, :k])
    return Neighbours(values[:, :k].contiguous(), index)


def vote(
    similarity: Tensor, labels: Tensor, *, k: int, temperature: float, num_classes: int
) -> Tensor:
    """Returns votes (M, C), float32, of the first k neighbours; each votes exp(similarity /
    temperature).

    Args:
        similarity: (M, K) with K >= k.
        labels: the labels of those neighbours, (M, K) int64.
    """
    weights = (similarity[:, :k] / temperature).exp()
    tally = weights.new_zeros(len(weights), num_classes)
    return tally.scatter_add_(1, labels[:, :k], weights)


def weighted_knn(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int,
    chunk: int = QUERY_CHUNK,
) -> dict[int, Tensor]:
    """Returns the class votes of the k most similar bank rows, each weighted by exp(cosine /
    temperature).

    The method is that of DINO's eval_knn.py, after Wu et al. 2018 (Instance Discrimination).

    Args:
        train_features: (N, D), test_features: (M, D), see `nearest_neighbours`.
        train_labels: (N,) int64 in 0..C-1.
        k: numbers of neighbours; one pass over the similarities serves all of them.

    Returns:
        For each k the votes (M, C), float32.

    Raises:
        InputError: k is larger than the bank, or a label is outside 0..C-1.
    """
    check_labels(train_labels, num_classes, "the bank")
    found = nearest_neighbours(train_features, test_features, max(k), chunk=chunk)
    labels = train_labels.to(found.index.device)[found.index]
    return {
        size: vote(
            found.similarity, labels, k=size, temperature=temperature, num_classes=num_classes
        )
        for size in k
    }


def check_labels(labels: Tensor, num_classes: int, name: str) -> None:
    """Raises InputError if a label is not in 0..num_classes-1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"labels of {name} are from {low} to {high}, but there are {num_classes} classes: "
            f"labels must be in 0..{num_classes - 1}"
        )


def label_rank(votes: Tensor, labels: Tensor) -> Tensor:
    """Returns the place (M,) of each row's label among its classes by votes (M, C): 0 is the most
    voted.

    If votes are equal, the lower class is first; a label without a vote has place C.
    """
    own = votes.gather(1, labels[:, None])
    before = torch.arange(votes.shape[1], device=votes.device) < labels[:, None]
    rank = ((votes > own) | ((votes == own) & before)).sum(dim=1)
    return rank.masked_fill(~(own[:, 0] > 0), votes.shape[1])  # NaN is not a vote either


def top_accuracy(votes: Tensor, labels: Tensor, top: int = 1) -> float:
    """Returns the percentage of rows of votes (M, C) whose label is among the `top` highest."""
    return 100.0 * (label_rank(votes, labels) < top).sum().item() / len(labels)
