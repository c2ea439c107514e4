"""The second stage: it pools features of the proposals, and classifies and refines them.

N images, r sampled boxes of an image, G ground-truth boxes, K classes. Res5ROIHeads is that of C4
detectors, with MoCo's norm after res5 if asked for; StandardROIHeads that of all others, with a box
head of `box_head.BOX_HEADS`.
Specification: detectron2 `modeling/roi_heads/roi_heads.py`; MoCo's `detection/train_net.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.batchnorm import check_norm, make_norm
from transfer.detection.torchvision_engine.box_head import (
    BoxHeadSpec,
    BoxPredictor,
    BoxPredictorSpec,
    find_box_head,
)
from transfer.detection.torchvision_engine.features import ROI_IN, check_named
from transfer.detection.torchvision_engine.mask_head import (
    MaskHead,
    MaskHeadSpec,
    mask_loss,
    mask_probabilities,
)
from transfer.detection.torchvision_engine.pooler import PoolerSpec, RoiPooler
from transfer.detection.torchvision_engine.resnet import make_stage
from transfer.detection.torchvision_engine.roi_sampler import RoiSampler, RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import Detections, RoiSample, Targets


@dataclass(frozen=True, kw_only=True)
class RoiHeadsSpec(ABC):
    """What both second stages have; `ROI_HEADS` names them."""

    architectures: ClassVar[tuple[str, ...]]  # of the detectors that can have such heads

    in_features: tuple[str, ...]  # the backbone's maps that boxes are pooled from
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
            raise InputError(f"MODEL.ROI_HEADS.NUM_CLASSES must be at least 1: {self.num_classes}")

    @abstractmethod
    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> RoiHeads:
        """The heads on a backbone's maps, which are given by name; untrained."""


class RoiHeads(nn.Module, ABC):
    """The frame of both second stages. Children `box_predictor` and, with masks, `mask_head`."""

    def __init__(self, spec: RoiHeadsSpec, *, inputs: int, channels: int) -> None:
        """Args:
        inputs: length of a box's vector, for the predictor.
        channels: of a box's features, for the mask head.
        """
        super().__init__()
        self.sampler = RoiSampler(spec.sampler, spec.num_classes)
        self.box_predictor = BoxPredictor(
            spec.predictor, inputs=inputs, num_classes=spec.num_classes
        )
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
            # Of the detections only: their boxes are better than the proposals, and fewer.
            self._add_masks(self.mask_head, features, detections)
        return detections, {}

    def _foreground(self, samples: Sequence[RoiSample]) -> list[Tensor]:
        """The rows of each image's sample that hold an object."""
        classes = [sample.classes for sample in samples]
        masks = [(each >= 0) & (each < self.sampler.num_classes) for each in classes]
        return [torch.nonzero(mask).squeeze(1) for mask in masks]

    def _add_masks(
        self, mask_head: MaskHead, features: dict[str, Tensor], detections: list[Detections]
    ) -> None:
        boxes = [image.boxes for image in detections]
        classes = torch.cat([image.classes for image in detections])
        logits = mask_head(self._mask_features(features, boxes))
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


@dataclass(frozen=True, kw_only=True)
class Res5HeadsSpec(RoiHeadsSpec):
    """MODEL.ROI_HEADS.NAME Res5ROIHeads, or Res5ROIHeadsExtraNorm: the C4 detector's."""

    architectures = ("C4",)

    pooler: PoolerSpec
    norm: str  # of res5, as of the backbone
    stride_in_1x1: bool  # of res5, as of the backbone
    extra_norm: bool  # a norm after res5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Res5HeadsSpec:
        """Reads the config; raises InputError for values that make no such heads."""
        model, node = cfg.MODEL, cfg.MODEL.ROI_HEADS
        if model.ROI_BOX_HEAD.NAME:  # such heads have none, so that only its name is checked
            find_box_head(model.ROI_BOX_HEAD.NAME, node.NAME)
        return cls(
            in_features=tuple(node.IN_FEATURES),
            num_classes=node.NUM_CLASSES,
            sampler=RoiSamplerSpec.from_config(cfg),
            predictor=BoxPredictorSpec.from_config(cfg),
            mask_head=MaskHeadSpec.from_config(cfg),
            pooler=PoolerSpec.from_config(model.ROI_BOX_HEAD),
            norm=model.RESNETS.NORM,
            stride_in_1x1=model.RESNETS.STRIDE_IN_1X1,
            extra_norm=node.NAME == "Res5ROIHeadsExtraNorm",
        )

    def __post_init__(self) -> None:
        """Raises InputError for values that make no heads."""
        super().__post_init__()
        check_norm("MODEL.RESNETS.NORM", self.norm)

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> Res5ROIHeads:
        """See `RoiHeadsSpec`."""
        (name,) = self.in_features
        return Res5ROIHeads(self, inputs=channels[name], stride=strides[name])


class Res5ROIHeads(RoiHeads):
    """RoIAlign on res4, the stage `res5` on every box, its mean to the predictor; masks share res5.

    With `extra_norm` a norm without ReLU is the last child of `res5`, named `norm`. It is MoCo's
    (He et al. 2020, `detection/train_net.py`): features of different pretraining differ in scale,
    and the norm brings them to one before the new predictor.
    """

    def __init__(self, spec: Res5HeadsSpec, *, inputs: int, stride: int) -> None:
        """Args: inputs, stride: channels and pixels per cell of res4."""
        channels = 2 * inputs
        # Before the base's parts, as upstream: a seed then draws the same weights.
        res5 = make_stage(
            depth=50,  # three blocks, as in every bottleneck ResNet's last stage
            stage=5,
            inputs=inputs,
            norm=spec.norm,
            stride_in_1x1=spec.stride_in_1x1,
        )
        if spec.extra_norm:
            res5.add_module("norm", make_norm(spec.norm, channels) or nn.Identity())
        super().__init__(spec, inputs=channels, channels=channels)
        self.res5 = res5
        self.pooler = RoiPooler(spec.pooler, (stride,))
        (self.feature,) = spec.in_features

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.res5(self.pooler([features[self.feature]], boxes))

    def _box_vectors(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self._mask_features(features, boxes).mean(dim=(2, 3))

    def _losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        shared = self._mask_features(features, [sample.boxes for sample in samples])
        logits, deltas = self.box_predictor(shared.mean(dim=(2, 3)))
        losses = self.box_predictor.losses(logits, deltas, samples)
        if self.mask_head is not None:
            foreground = self._foreground(samples)
            chosen = [sample.select(rows) for sample, rows in zip(samples, foreground)]
            firsts = accumulate((len(sample.boxes) for sample in samples), initial=0)
            rows = torch.cat([rows + first for rows, first in zip(foreground, firsts)])
            logits = self.mask_head(shared[rows])
            losses["loss_mask"] = mask_loss(logits, chosen)
        return losses


@dataclass(frozen=True, kw_only=True)
class StandardHeadsSpec(RoiHeadsSpec):
    """MODEL.ROI_HEADS.NAME StandardROIHeads: those of pyramids and of the tiny model."""

    architectures = ("FPN", "TINY", "VIT")

    box_head: BoxHeadSpec
    box_pooler: PoolerSpec
    mask_pooler: PoolerSpec

    @classmethod
    def from_config(cls, cfg: CfgNode) -> StandardHeadsSpec:
        """Reads the config; raises InputError for values that make no such heads."""
        node = cfg.MODEL.ROI_HEADS
        return cls(
            in_features=tuple(node.IN_FEATURES),
            num_classes=node.NUM_CLASSES,
            sampler=RoiSamplerSpec.from_config(cfg),
            predictor=BoxPredictorSpec.from_config(cfg),
            mask_head=MaskHeadSpec.from_config(cfg),
            box_head=find_box_head(cfg.MODEL.ROI_BOX_HEAD.NAME, node.NAME).from_config(cfg),
            box_pooler=PoolerSpec.from_config(cfg.MODEL.ROI_BOX_HEAD),
            mask_pooler=PoolerSpec.from_config(cfg.MODEL.ROI_MASK_HEAD),
        )

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> StandardROIHeads:
        """See `RoiHeadsSpec`."""
        return StandardROIHeads(
            self,
            channels=channels[self.in_features[0]],
            strides=[strides[name] for name in self.in_features],
        )


class StandardROIHeads(RoiHeads):
    """Box head and mask head, each with a pooler, over the same maps (FPN, the tiny model)."""

    def __init__(self, spec: StandardHeadsSpec, *, channels: int, strides: Sequence[int]) -> None:
        """Args: channels, strides: of the maps, which are all as wide."""
        box_head = spec.box_head.build(channels, spec.box_pooler.resolution)  # first, as upstream
        super().__init__(spec, inputs=box_head.out_dim, channels=channels)
        self.box_head = box_head
        self.box_pooler = RoiPooler(spec.box_pooler, strides)
        self.mask_pooler = RoiPooler(spec.mask_pooler, strides)
        self.in_features = spec.in_features

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
        logits, deltas = self.box_predictor(vectors)
        losses = self.box_predictor.losses(logits, deltas, samples)
        if self.mask_head is not None:
            foreground = self._foreground(samples)
            chosen = [sample.select(rows) for sample, rows in zip(samples, foreground)]
            logits = self.mask_head(
                self._mask_features(features, [sample.boxes for sample in chosen])
            )
            losses["loss_mask"] = mask_loss(logits, chosen)
        return losses


# MODEL.ROI_HEADS.NAME -> what reads its keys.
ROI_HEADS: dict[str, type[RoiHeadsSpec]] = {
    "Res5ROIHeads": Res5HeadsSpec,
    "Res5ROIHeadsExtraNorm": Res5HeadsSpec,
    "StandardROIHeads": StandardHeadsSpec,
}
