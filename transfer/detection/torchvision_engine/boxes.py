"""Small functions of boxes: float32 (n, 4) XYXY in pixels, continuous, half-open.

n, m boxes. Specification: detectron2 `structures/boxes.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """Returns the areas (n,) of boxes (n, 4), in square pixels."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the intersection over union (n, m) of boxes (n, 4) and (m, 4); 0 without overlap."""
    top_left = torch.max(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.min(first[:, None, 2:], second[None, :, 2:])
    intersection = (bottom_right - top_left).clamp_(min=0).prod(dim=2)
    union = area(first)[:, None] + area(second)[None, :] - intersection
    # Two boxes without area have no union: a plain division would give NaN.
    zero = torch.zeros((), dtype=intersection.dtype, device=intersection.device)
    return torch.where(intersection > 0, intersection / union, zero)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns boxes (n, 4) clipped to an image of `size` = (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    return torch.stack(
        (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=1
    )


def nonempty(boxes: Tensor) -> Tensor:
    """Returns whether both sides of boxes (n, 4) are longer than 0, bool (n,)."""
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
