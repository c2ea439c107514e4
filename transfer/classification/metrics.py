"""Accuracies, in percent, of scores (M, C) of M test images for C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Returns the percentage of rows of scores (M, C) whose label is among the `top` highest."""
    return 100.0 * int(hits(scores, labels, top).sum()) / len(labels)


def hits(scores: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Returns whether the label is among the `top` highest of its row, bool (M,).

    A row that is not finite (from a head that has diverged) counts as wrong.
    """
    finite = scores.isfinite().all(dim=1)
    best = scores.nan_to_num().topk(min(top, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1) & finite


def mean_per_class(correct: Tensor, labels: Tensor) -> float:
    """Returns the mean over the classes with images of the percentage of them that are right."""
    total = torch.bincount(labels)
    right, there = torch.bincount(labels[correct], minlength=len(total)), total > 0
    return float((100.0 * right[there].double() / total[there]).mean())


def per_class_accuracy(
    correct: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float | None]:
    """Returns {class: percentage of its test images that are right, None if it has none}."""
    right = torch.bincount(labels[correct], minlength=len(classes)).tolist()
    total = torch.bincount(labels, minlength=len(classes)).tolist()
    return {
        name: 100.0 * right[c] / total[c] if total[c] else None for c, name in enumerate(classes)
    }


def per_class_accuracies(
    correct: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Returns `per_class_accuracy` of several metrics, whose `correct` may be on any device."""
    return {
        metric: per_class_accuracy(right.cpu(), labels, classes)
        for metric, right in correct.items()
    }
