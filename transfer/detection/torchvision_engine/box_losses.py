"""The loss of predicted boxes: smooth L1 on deltas, or one minus an overlap of decoded boxes.

n boxes that answer for an object, m boxes that deltas start from. Smooth L1 is equation 3 of
Girshick 2015 (Fast R-CNN), with the width `beta` of its quadratic part; GIoU is algorithm 1 of
Rezatofighi et al. 2019, DIoU and CIoU are equations 7 and 10 of Zheng et al. 2020. Specification:
detectron2 `modeling/box_regression.py` (`_dense_box_regression_loss`). GIoU is torchvision's; its
DIoU and CIoU add their gradients up in a different order than the published ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.box_coding import BoxCoder

SMOOTH_L1 = "smooth_l1"
EPSILON = 1e-7  # keeps quotients of boxes without area finite
# Below this width Detectron2 computes plain L1; a division by it would give NaN gradients.
LEAST_BETA = 1e-5


@dataclass(frozen=True, kw_only=True)
class BoxLossSpec:
    """Has the keys of MODEL.RPN or MODEL.ROI_BOX_HEAD that say how far a box is from its object."""

    kind: str  # "smooth_l1", "giou", "diou" or "ciou"
    beta: float  # width of the quadratic part of smooth_l1, in deltas; 0: plain L1
    weight: float  # factor of this loss in the detector's sum

    @classmethod
    def from_config(cls, cfg: CfgNode, section: str) -> BoxLossSpec:
        """Reads the keys of MODEL.`section`; raises InputError for an unknown loss."""
        node = cfg.MODEL[section]
        check_box_loss(
            f"MODEL.{section}",
            {
                "BBOX_REG_LOSS_TYPE": node.BBOX_REG_LOSS_TYPE,
                "SMOOTH_L1_BETA": node.SMOOTH_L1_BETA,
                "BBOX_REG_LOSS_WEIGHT": node.BBOX_REG_LOSS_WEIGHT,
            },
        )
        return cls(
            kind=node.BBOX_REG_LOSS_TYPE,
            beta=node.SMOOTH_L1_BETA,
            weight=node.BBOX_REG_LOSS_WEIGHT,
        )


def check_box_loss(section: str, values: dict[str, str | float]) -> None:
    """Raises InputError, naming the key of the section, for an unknown name or a number below 0."""
    for key, value in values.items():
        if isinstance(value, str):
            known = (SMOOTH_L1, *OVERLAP_LOSSES)
            if value not in known:
                raise InputError(f"{section}.{key} {value!r} is unknown; known: {', '.join(known)}")
        else:
            check_weight(f"{section}.{key}", value)


def check_weight(key: str, value: float) -> None:
    """Raises InputError for a weight below 0, by which a training would raise its loss."""
    if value < 0:
        raise InputError(f"{key} {value} must be 0 or above")


def weighted(loss: Tensor, weight: float) -> Tensor:
    """Returns the loss times its weight; the loss itself if the weight is 1."""
    return loss if weight == 1.0 else loss * weight


def distance_iou_loss(boxes: Tensor, truth: Tensor, *, complete: bool = False) -> Tensor:
    """Returns the loss of each of n boxes, (n,); boxes and their objects' boxes are (n, 4).

    It is 1 - IoU + (distance of the centres / diagonal of the box around both)^2; with `complete`
    also a term of their aspect ratios.
    """
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    left, top, right, bottom = truth.unbind(dim=1)
    overlap_left, overlap_top = torch.max(x1, left), torch.max(y1, top)
    overlap_right, overlap_bottom = torch.min(x2, right), torch.min(y2, bottom)
    meets = (overlap_bottom > overlap_top) & (overlap_right > overlap_left)
    overlap = torch.zeros_like(x1)
    overlap[meets] = (overlap_right[meets] - overlap_left[meets]) * (
        overlap_bottom[meets] - overlap_top[meets]
    )
    union = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - overlap + EPSILON
    iou = overlap / union
    outer_width = torch.max(x2, right) - torch.min(x1, left)
    outer_height = torch.max(y2, bottom) - torch.min(y1, top)
    diagonal = outer_width**2 + outer_height**2 + EPSILON
    distance = ((x2 + x1) / 2 - (left + right) / 2) ** 2 + ((y2 + y1) / 2 - (top + bottom) / 2) ** 2
    loss = 1 - iou + distance / diagonal
    if not complete:
        return loss
    angles = torch.atan((right - left) / (bottom - top)) - torch.atan((x2 - x1) / (y2 - y1))
    odd = 4 / math.pi**2 * angles**2
    with torch.no_grad():  # a weight, not a part of the loss (equation 11)
        weight = odd / (1 - iou + odd + EPSILON)
    return loss + weight * odd


def complete_iou_loss(boxes: Tensor, truth: Tensor) -> Tensor:
    """Returns the complete IoU loss; see `distance_iou_loss`."""
    return distance_iou_loss(boxes, truth, complete=True)


OVERLAP_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_iou_loss,
    "ciou": complete_iou_loss,
}


class BoxLoss:
    """Computes the sum of the distances of boxes to their objects, without its weight."""

    def __init__(self, kind: str, beta: float, coder: BoxCoder) -> None:
        """Args: kind, beta: see `BoxLossSpec`."""
        self.kind, self.beta, self.coder = kind, beta, coder

    def targets(self, sources: Tensor, boxes: Tensor) -> Tensor:
        """Returns what the loss compares with, (n, 4): deltas for smooth L1, or objects' boxes.

        Both inputs are (n, 4): the boxes from which deltas start, and the objects' boxes.
        """
        return self.coder.encode(sources, boxes) if self.kind == SMOOTH_L1 else boxes

    def __call__(self, deltas: Tensor, targets: Tensor, sources: Tensor, rows: Tensor) -> Tensor:
        """Returns the loss, a scalar, of deltas (n, 4) and their `targets` (n, 4).

        Args:
            sources: (m, 4) boxes that deltas start from.
            rows: int64 (n,), which of them each delta starts from.
        """
        if self.kind == SMOOTH_L1:
            return smooth_l1(deltas - targets, self.beta).sum()
        boxes = self.coder.decode(deltas, sources[rows])
        return OVERLAP_LOSSES[self.kind](boxes, targets).sum()


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    """Returns x^2 / (2 beta) up to |x| = beta, then |x| - beta / 2, in the shape of the input.

    This is not torch's function of this name, whose gradient x / beta is rounded in a different
    order than the published one's.
    """
    size = difference.abs()
    if beta < LEAST_BETA:
        return size
    return torch.where(size < beta, 0.5 * size**2 / beta, size - 0.5 * beta)
