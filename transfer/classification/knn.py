"""Weighted kNN on frozen features: features in, percentages out.

Legend: N bank images, M test images, D dimensions, C classes.
Source: facebookresearch/dino eval_knn.py (cosine, weights exp(similarity / T), T = 0.07).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.knn import weighted_knn
from transfer.classification.metrics import accuracy


def check_k(k: Sequence[int], bank_size: int, bank_name: str) -> None:
    """Raises InputError unless every k is from 1 to the bank's number of images."""
    if not k or min(k) < 1:
        raise InputError(f"PROTOCOL.K {tuple(k)} must list neighbourhood sizes of 1 or more")
    if max(k) > bank_size:
        raise InputError(
            f"PROTOCOL.K asks for {max(k)} neighbours, but {bank_name} has {bank_size} images; "
            "leave the larger k out"
        )


def evaluate_knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int],
    temperature: float,
    num_classes: int,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Returns ({"knn20_top1": percent, ...}, {"knn20_top1": correct (M,) bool, ...}).

    `bank` is (N, D), `queries` (M, D), labels int64. knnK_top5 comes with six classes or more.
    """
    votes = weighted_knn(
        bank, bank_labels, queries, k=k, temperature=temperature, num_classes=num_classes
    )
    metrics: dict[str, float] = {}
    correct: dict[str, Tensor] = {}
    for size in k:
        metrics[f"knn{size}_top1"] = accuracy(votes[size], query_labels)
        correct[f"knn{size}_top1"] = votes[size].topk(1, dim=1).indices[:, 0] == query_labels
        if num_classes > 5:
            metrics[f"knn{size}_top5"] = accuracy(votes[size], query_labels, 5)
    return metrics, correct
