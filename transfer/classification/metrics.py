"""Accuracies from scores: (M, C) scores and (M,) labels in, percent out.

Legend: M test images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Percent of rows of scores (M, C) with the label among the `top` highest."""
    return 100.0 * int(hits(scores, labels, top).sum()) / len(labels)


def hits(scores: Tensor, labels: Tensor, top: int = 1) -> Tensor:
    """Whether the label is among the `top` highest of each row, bool (M,).

    A row that is not finite (a head that diverged) counts as wrong.
    """
    finite = scores.isfinite().all(dim=1)
    best = scores.nan_to_num().topk(min(top, scores.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(dim=1) & finite


def per_class_accuracy(
    correct: Tensor, labels: Tensor, classes: Sequence[str]
) -> dict[str, float | None]:
    """{class: percent of its test images that are right, None where it has none}."""
    right = torch.bincount(labels[correct], minlength=len(classes)).tolist()
    total = torch.bincount(labels, minlength=len(classes)).tolist()
    return {
        name: 100.0 * right[c] / total[c] if total[c] else None for c, name in enumerate(classes)
    }


def per_class_accuracies(
    correct: Mapping[str, Tensor], labels: Tensor, classes: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """`per_class_accuracy` of several metrics, whose `correct` may be on any device."""
    return {
        metric: per_class_accuracy(right.cpu(), labels, classes)
        for metric, right in correct.items()
    }
