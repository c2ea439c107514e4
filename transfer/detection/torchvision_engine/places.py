"""Finds the true places of a mask and the boxes after NMS with as few waits for a GPU as possible.

A GPU's boolean index, `nonzero` and `.tolist()` each make the host wait until the GPU has done all
that it was given: only the GPU knows the number of places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

MANY = 20_000  # boxes whose comparison with one another takes 50 MB


def places(masks: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Returns what `nonzero(as_tuple=True)` gives for each mask, but waits for a GPU only once for
    all masks.
    """
    if all(mask.device.type == "cpu" for mask in masks):
        return [mask.nonzero(as_tuple=True) for mask in masks]
    counts: list[int] = torch.stack([mask.sum() for mask in masks]).tolist()
    return [_of_count(mask, count) for mask, count in zip(masks, counts)]


def _of_count(mask: Tensor, count: int) -> tuple[Tensor, ...]:
    if not count:
        return (mask.new_zeros(0, dtype=torch.int64),) * mask.dim()
    return torch.nonzero_static(mask, size=count).unbind(1)


def nms_in_groups(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """Returns the rows (k,) that stay of boxes (n, 4), best first; boxes of two groups never meet.

    As torchvision's `batched_nms`, which is called on the CPU and for very many boxes. On a GPU
    each group's boxes are moved to a place of their own, as torchvision does for few boxes, but the
    host waits once: torchvision waits for a copy too, and with many boxes three times a group.

    Args:
        boxes: clipped to an image, so that no corner is below 0.
        groups: int64 (n,) from 0 on.
        threshold: IoU above which the box of the lower score goes.
    """
    if boxes.device.type == "cpu" or not 0 < len(boxes) <= MANY:
        return batched_nms(boxes, scores, groups, threshold)
    moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
    return nms(moved, scores, threshold)
