"""Second stage: feature maps, proposals and ground truth in, losses or detections out.

N images, r sampled boxes of an image, G ground-truth boxes, K classes.
Specification: detectron2 `modeling/roi_heads/roi_heads.py`; MoCo's `detection/train_net.py` for the
extra norm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from transfer.detection.torchvision_engine.box_head import BoxPredictor, ConvFCHead
from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.mask_head import (
    MaskHead,
    mask_loss,
    mask_probabilities,
)
from transfer.detection.torchvision_engine.matching import match, sample
from transfer.detection.torchvision_engine.pooler import RoiPooler
from transfer.detection.torchvision_engine.structures import Detections, RoiSample, Targets


class RoiSampler:
    """Chooses the proposals to train on."""

    def __init__(
        self,
        *,
        num_classes: int,
        batch_size_per_image: int,
        positive_fraction: float,
        iou_threshold: float,
        append_gt: bool,
    ) -> None:
        """Args: append_gt: whether the ground truth joins the proposals, at their end."""
        self.num_classes = num_classes
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.iou_threshold = iou_threshold
        self.append_gt = append_gt

    @torch.no_grad()
    def __call__(self, proposals: Sequence[Tensor], targets: Sequence[Targets]) -> list[RoiSample]:
        """N proposals (n, 4) and N ground truths -> N samples."""
        return [self._sample_image(*image) for image in zip(proposals, targets)]

    def _sample_image(self, boxes: Tensor, targets: Targets) -> RoiSample:
        if self.append_gt:
            boxes = torch.cat([boxes, targets.boxes])
        threshold = self.iou_threshold
        index, labels = match(
            pairwise_iou(targets.boxes, boxes),
            low=threshold,
            high=threshold,
            allow_low_quality=False,
        )
        if len(targets.boxes):
            classes = targets.classes[index]
            classes[labels == 0] = self.num_classes
        else:
            classes = torch.full_like(index, self.num_classes)
        chosen = torch.cat(
            sample(
                classes,
                size=self.batch_size_per_image,
                positive_fraction=self.positive_fraction,
                background=self.num_classes,
            )
        )
        index = index[chosen]
        # Without ground truth these rows are never read; the boxes themselves are finite stand-ins.
        gt_boxes = targets.boxes[index] if len(targets.boxes) else boxes[chosen]
        return RoiSample(boxes[chosen], classes[chosen], gt_boxes, index, targets)


class RoiHeads(nn.Module, ABC):
    """The frame of both second stages. Children `box_predictor` and, with masks, `mask_head`."""

    def __init__(
        self, *, sampler: RoiSampler, predictor: BoxPredictor, mask_head: MaskHead | None
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.box_predictor = predictor
        self.mask_head = mask_head

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets] | None = None,
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """In training ([], losses), else (N detections with mask probabilities, {}).

        Args:
            features: maps by name, each (N, C, H, W).
            proposals: N tensors (n, 4).
            image_sizes: N pairs (height, width).
            targets: N ground truths, in training.
        """
        if self.training:
            return [], self._losses(features, self.sampler(proposals, targets))
        logits, deltas = self.box_predictor(self._box_vectors(features, proposals))
        detections = self.box_predictor.detect(logits, deltas, proposals, image_sizes)
        if self.mask_head is not None:
            self._add_masks(features, detections)
        return detections, {}

    def _foreground(self, samples: Sequence[RoiSample]) -> list[Tensor]:
        classes = [sample.classes for sample in samples]
        return [(each >= 0) & (each < self.sampler.num_classes) for each in classes]

    def _add_masks(self, features: dict[str, Tensor], detections: list[Detections]) -> None:
        boxes = [image.boxes for image in detections]
        classes = torch.cat([image.classes for image in detections])
        logits = self.mask_head(self._mask_features(features, boxes))
        counts = [len(image) for image in detections]
        for image, masks in zip(detections, mask_probabilities(logits, classes).split(counts)):
            image.masks = masks

    @abstractmethod
    def _box_vectors(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps and N tensors of boxes (., 4) -> (r, inputs of the predictor)."""

    @abstractmethod
    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps and N tensors of boxes (., 4) -> (r, C, P, P) for the mask head."""

    @abstractmethod
    def _losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        """Maps and N samples -> loss_cls, loss_box_reg and, with masks, loss_mask."""


class Res5ROIHeads(RoiHeads):
    """RoIAlign on res4, the `res5` stage on every box, its mean to the predictor; masks share res5.

    MoCo's Res5ROIHeadsExtraNorm is the same with `res5` ending in a norm named `norm`, no ReLU.
    """

    def __init__(
        self, *, res5: nn.Sequential, pooler: RoiPooler, feature: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.res5 = res5
        self.pooler = pooler
        self.feature = feature

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.res5(self.pooler([features[self.feature]], boxes))

    def _box_vectors(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self._mask_features(features, boxes).mean(dim=(2, 3))

    def _losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        shared = self._mask_features(features, [sample.boxes for sample in samples])
        losses = self.box_predictor.losses(*self.box_predictor(shared.mean(dim=(2, 3))), samples)
        if self.mask_head is not None:
            foreground = self._foreground(samples)
            chosen = [sample.select(mask) for sample, mask in zip(samples, foreground)]
            logits = self.mask_head(shared[torch.cat(foreground)])
            losses["loss_mask"] = mask_loss(logits, chosen)
        return losses


class StandardROIHeads(RoiHeads):
    """Box head and mask head, each with a pooler, over the same maps (FPN, the tiny model)."""

    def __init__(
        self,
        *,
        box_head: ConvFCHead,
        box_pooler: RoiPooler,
        mask_pooler: RoiPooler | None,
        in_features: tuple[str, ...],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.box_head = box_head
        self.box_pooler, self.mask_pooler = box_pooler, mask_pooler
        self.in_features = in_features

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.in_features]

    def _box_vectors(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.box_head(self.box_pooler(self._maps(features), boxes))

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.mask_pooler(self._maps(features), boxes)

    def _losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        vectors = self._box_vectors(features, [sample.boxes for sample in samples])
        losses = self.box_predictor.losses(*self.box_predictor(vectors), samples)
        if self.mask_head is not None:
            foreground = self._foreground(samples)
            chosen = [sample.select(mask) for sample, mask in zip(samples, foreground)]
            logits = self.mask_head(
                self._mask_features(features, [sample.boxes for sample in chosen])
            )
            losses["loss_mask"] = mask_loss(logits, chosen)
        return losses
