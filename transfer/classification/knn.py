"""Weighted kNN on frozen features: features in, percentages out.

Legend: N bank images, M test images, D dimensions, C classes.
Source: facebookresearch/dino eval_knn.py (cosine, weights exp(similarity / T), T = 0.07).

Metrics are called knnK_top1 at the protocol's temperature and knnK_T0.1_top1 at any other. How
ties are broken: `pretrain.common.knn`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.knn import check_labels, label_rank, nearest_neighbours, vote

# exp(1 / T), the vote of an equal image, summed over thousands of neighbours overflows below
LOWEST_TEMPERATURE = 0.0125


def check_k(k: Sequence[int], bank_size: int, bank_name: str) -> None:
    """Raises InputError unless every k is from 1 to the bank's number of images."""
    if not k or min(k) < 1:
        raise InputError(f"PROTOCOL.K {tuple(k)} must list neighbourhood sizes of 1 or more")
    if max(k) > bank_size:
        raise InputError(
            f"PROTOCOL.K asks for {max(k)} neighbours, but {bank_name} has {bank_size} images; "
            "leave the larger k out"
        )


def check_temperatures(temperature: float, more: Sequence[float]) -> None:
    """Raises InputError for a temperature that no vote can be computed with."""
    for key, values in (("PROTOCOL.TEMPERATURE", [temperature]), ("KNN.MORE_TEMPERATURES", more)):
        for value in values:
            if not LOWEST_TEMPERATURE <= value < float("inf"):
                raise InputError(f"{key} {value} must be {LOWEST_TEMPERATURE} or more")


def evaluate_knn(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    k: Sequence[int],
    temperature: float,
    more_temperatures: Sequence[float] = (),
    num_classes: int,
    device: torch.device | None = None,
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Returns ({"knn20_top1": percent, ...}, {"knn20_top1": right (M,) bool on the CPU, ...}).

    Every k and temperature is answered from one search. knnK_top5 comes with six classes or more.

    Args:
        bank: (N, D), on the host or mapped from a file; queries: (M, D); labels int64.
        device: of the search; None: where the queries are.

    Raises:
        InputError: labels outside 0..C-1.
    """
    check_labels(bank_labels, num_classes, "the training images")
    check_labels(query_labels, num_classes, "the test images")
    found = nearest_neighbours(bank, queries, max(k), device=device)
    labels = bank_labels.to(found.index.device)[found.index]
    wanted = query_labels.to(found.index.device)
    metrics: dict[str, float] = {}
    correct: dict[str, Tensor] = {}
    for value in dict.fromkeys([temperature, *more_temperatures]):
        suffix = "" if value == temperature else f"_T{value:g}"
        for size in k:
            name = f"knn{size}{suffix}"
            options = {"k": size, "temperature": value, "num_classes": num_classes}
            rank = label_rank(vote(found.similarity, labels, **options), wanted)
            for top in (1, 5) if num_classes > 5 else (1,):
                right = (rank < top).cpu()
                metrics[f"{name}_top{top}"] = 100.0 * int(right.sum()) / len(right)
                correct[f"{name}_top{top}"] = right
    return metrics, correct
