"""Matches boxes to ground truths, and samples the boxes that are trained on.

G ground-truth boxes, n candidate boxes (anchors or proposals).
Specification: detectron2 `modeling/matcher.py` and `modeling/sampling.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.places import places

IGNORE = -1  # the label of a box between both thresholds, which no loss uses


def check_thresholds(key: str, values: Sequence[float], count: int) -> None:
    """Raises InputError unless there are `count` thresholds above 0 in ascending order.

    Detectron2's Matcher asserts the same.
    """
    ascending = all(low <= high for low, high in zip(values, values[1:]))
    if len(values) != count or values[0] <= 0 or not ascending:
        numbers = "one number" if count == 1 else f"{count} numbers in ascending order, each"
        raise InputError(f"{key} {list(values)} must be {numbers} above 0")


def match(
    iou: Tensor, *, low: float, high: float, allow_low_quality: bool
) -> tuple[Tensor, Tensor]:
    """Returns the best ground truth of each box, int64 (n,), and its label, int8 (n,).

    The IoU is (G, n). Label 1 is for IoU >= high, 0 below low, IGNORE between. With
    `allow_low_quality` every box that ties the best IoU of some ground truth gets 1 as well and
    keeps its own best ground truth. (A ground truth that overlaps nothing has best IoU 0, and all
    boxes that do not touch it tie it.) Without ground truth all labels are 0.
    """
    if iou.shape[0] == 0:
        zeros = iou.new_zeros(iou.shape[1], dtype=torch.int64)
        return zeros, zeros.to(torch.int8)
    best, index = iou.max(dim=0)
    labels = torch.ones_like(index, dtype=torch.int8)
    labels[best < high] = IGNORE
    labels[best < low] = 0
    if allow_low_quality:
        # All ties, compared exactly, as upstream: anchors of one shape often overlap alike.
        best_of_truth = iou.max(dim=1, keepdim=True).values
        labels[(iou == best_of_truth).any(dim=0)] = 1
    return index, labels


def sample(
    labels: Sequence[Tensor], *, size: int, positive_fraction: float, background: int
) -> list[tuple[Tensor, Tensor]]:
    """Draws up to `size` boxes of each image.

    The labels of an image are (n,). For each image it returns the indices of positives (p,) and of
    negatives (q,).

    Positives (neither `background` nor IGNORE) take at most `positive_fraction` of the places, and
    negatives fill the rest. There is one torch.randperm for each, on the labels' device and torch's
    global generator: the draws, and so a training run, are Detectron2's for a seed.
    """
    masks = [((each != IGNORE) & (each != background), each == background) for each in labels]
    found = iter(places([mask for pair in masks for mask in pair]))
    drawn = []
    for (positive,), (negative,) in zip(found, found):
        num_positive = min(positive.numel(), int(size * positive_fraction))
        num_negative = min(negative.numel(), size - num_positive)
        chosen = torch.randperm(positive.numel(), device=positive.device)[:num_positive]
        rest = torch.randperm(negative.numel(), device=negative.device)[:num_negative]
        drawn.append((positive[chosen], negative[rest]))
    return drawn
