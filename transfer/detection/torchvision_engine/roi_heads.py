"""The frame of the second stage: it pools features of the proposals, classifies and refines them.

N images, r sampled boxes of an image, G ground-truth boxes, K classes. The second stages are in
`res5_roi_heads.py` (C4 detectors), `standard_roi_heads.py` and `cascade_roi_heads.py` (all others).
Specification: detectron2 `modeling/roi_heads/roi_heads.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.box_head import BoxPredictorSpec
from transfer.detection.torchvision_engine.feature_map_checks import ROI_IN, check_named
from transfer.detection.torchvision_engine.mask_head import (
    MaskHead,
    MaskHeadSpec,
    mask_probabilities,
)
from transfer.detection.torchvision_engine.roi_sampler import RoiSampler, RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import Detections, RoiSample, Targets


@dataclass(frozen=True, kw_only=True)
class RoiHeadsSpec(ABC):
    """Is the common part of all second stages; `detector.ROI_HEADS` names them."""

    architectures: ClassVar[tuple[str, ...]]  # the kinds of backbone with which they work

    in_features: tuple[str, ...]  # the backbone's maps from which boxes are pooled
    num_classes: int  # K; the background is the class after the last
    sampler: RoiSamplerSpec
    predictor: BoxPredictorSpec
    mask_head: MaskHeadSpec | None

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode) -> RoiHeadsSpec:
        """Reads the config; raises InputError for values that make no such heads."""

    def __post_init__(self) -> None:
        """Raises InputError for values that make no heads."""
        check_named(ROI_IN, self.in_features)
        if self.num_classes < 1:
            raise InputError(
                f"MODEL.ROI_HEADS.NUM_CLASSES must be 1 or above, got {self.num_classes}"
            )

    @abstractmethod
    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> RoiHeads:
        """Returns the heads on a backbone's maps, which are given by name; untrained."""


class RoiHeads(nn.Module, ABC):
    """Is the frame of all second stages. Its children are `box_predictor` and, with masks,
    `mask_head`.
    """

    def __init__(self, spec: RoiHeadsSpec, *, box_predictor: nn.Module, channels: int) -> None:
        """Args:
        box_predictor: a `BoxPredictor`, or one for each stage of a cascade.
        channels: channels of a box's features, for the mask head.
        """
        super().__init__()
        self.sampler = RoiSampler(spec.sampler, spec.num_classes)
        self.box_predictor = box_predictor
        self.mask_head: MaskHead | None = None
        if spec.mask_head is not None:
            self.mask_head = MaskHead(
                spec.mask_head, channels=channels, num_classes=spec.num_classes
            )

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets] = (),
    ) -> tuple[list[Detections], dict[str, Tensor]]:
        """Returns ([], losses) in training, otherwise (N detections with masks and keypoints, {}).

        Args:
            features: maps by name, each (N, C, H, W).
            proposals: N tensors (n, 4).
            image_sizes: N pairs (height, width).
            targets: N ground truths, in training.
        """
        if self.training:
            return [], self._losses(features, self.sampler(proposals, targets), image_sizes)
        detections = self._detect(features, proposals, image_sizes)
        if self.mask_head is not None:
            # Masks are made for the detections only: these are better than the proposals, and
            # fewer.
            self._add_masks(self.mask_head, features, detections)
        self._add_keypoints(features, detections)
        return detections, {}

    def _add_masks(
        self, mask_head: MaskHead, features: dict[str, Tensor], detections: list[Detections]
    ) -> None:
        boxes = [image.boxes for image in detections]
        classes = torch.cat([image.classes for image in detections])
        logits = mask_head(self._mask_features(features, boxes))
        counts = [len(image) for image in detections]
        for image, masks in zip(detections, mask_probabilities(logits, classes).split(counts)):
            image.masks = masks

    def _add_keypoints(self, features: dict[str, Tensor], detections: list[Detections]) -> None:
        """Sets the keypoints of the detections; these heads have none."""

    @abstractmethod
    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Returns N detections without masks and keypoints, of maps and N proposals (n, 4)."""

    @abstractmethod
    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Returns the mask head's features (r, C, P, P) of maps and N tensors of boxes (., 4)."""

    @abstractmethod
    def _losses(
        self,
        features: dict[str, Tensor],
        samples: Sequence[RoiSample],
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Returns loss_cls, loss_box_reg and, with masks, loss_mask, of maps and N samples."""
