"""Chooses the proposals that train the second stage: each is matched to the ground truth, some are
drawn.

n proposals and G ground-truth boxes of an image, r sampled boxes.
Specification: detectron2 `modeling/roi_heads/roi_heads.py` (label_and_sample_proposals).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.matching import check_thresholds, match, sample
from transfer.detection.torchvision_engine.structures import RoiSample, Targets


@dataclass(frozen=True, kw_only=True)
class RoiSamplerSpec:
    """Has the keys of MODEL.ROI_HEADS that choose the proposals of the loss."""

    batch_size_per_image: int
    # The largest part of the sampled boxes that may have an object. Most proposals are background;
    # with all of them it would drown the objects. One quarter is Fast R-CNN's value (Girshick 2015,
    # section 2.3).
    positive_fraction: float
    iou_thresholds: tuple[float, ...]  # one number: from it on a box is an object, else background
    # Whether the ground truth joins the proposals, at their end. Early proposals hardly overlap any
    # object, so that without it the heads would see background alone for a while.
    proposal_append_gt: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RoiSamplerSpec:
        """Reads the config; raises InputError for thresholds that do not fit."""
        node = cfg.MODEL.ROI_HEADS
        return cls(
            batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            iou_thresholds=tuple(node.IOU_THRESHOLDS),
            proposal_append_gt=node.PROPOSAL_APPEND_GT,
        )

    def __post_init__(self) -> None:
        """Raises InputError for thresholds that do not fit."""
        check_thresholds("MODEL.ROI_HEADS.IOU_THRESHOLDS", self.iou_thresholds, 1)


class RoiSampler:
    """Chooses the proposals to train on."""

    def __init__(self, spec: RoiSamplerSpec, num_classes: int) -> None:
        self.spec, self.num_classes = spec, num_classes

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Tensor], targets: Sequence[Targets]) -> list[RoiSample]:
        """Returns N samples, of N proposals (n, 4) and N ground truths."""
        labelled = [self._label(*image) for image in zip(proposals, targets)]
        drawn = sample(
            [classes for _, _, classes in labelled],
            size=self.spec.batch_size_per_image,
            positive_fraction=self.spec.positive_fraction,
            background=self.num_classes,
        )
        samples = []
        for (boxes, index, classes), rows, truth in zip(labelled, drawn, targets):
            chosen = torch.cat(rows)
            index = index[chosen]
            # Without ground truth these rows are never read; the boxes are finite stand-ins.
            gt_boxes = truth.boxes[index] if len(truth.boxes) else boxes[chosen]
            positives = len(rows[0])
            samples.append(
                RoiSample(boxes[chosen], classes[chosen], gt_boxes, index, truth, positives)
            )
        return samples

    def _label(self, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the boxes to draw from, the rows of their ground truths, and their classes.

        The result is (m, 4), (m,) and (m,); `boxes` are one image's proposals (n, 4).
        """
        if self.spec.proposal_append_gt:
            boxes = torch.cat([boxes, targets.boxes])
        (threshold,) = self.spec.iou_thresholds
        return boxes, *label_boxes(boxes, targets, threshold, self.num_classes)


def label_boxes(
    boxes: Tensor, targets: Targets, threshold: float, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Returns the row of the ground truth of each of an image's boxes (m, 4), and its class.

    The rows are int64 (m,). The class (m,) is `num_classes`, the background, if the IoU is below
    `threshold`.
    """
    index, labels = match(
        pairwise_iou(targets.boxes, boxes),
        low=threshold,
        high=threshold,
        allow_low_quality=False,
    )
    if len(targets.boxes):
        classes = targets.classes[index]
        classes[labels == 0] = num_classes
    else:
        classes = torch.full_like(index, num_classes)
    return index, classes
