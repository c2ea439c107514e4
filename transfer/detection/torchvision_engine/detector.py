"""The detector of two stages: a backbone, a region proposal network and a second stage.

`DetectorSpec.from_config(cfg).build()` makes one. In training it returns losses, otherwise
detections. `BaseSpec` and `BaseDetector` have what it shares with a detector of one stage
(`retinanet.py`).

N images of a batch, each float32 or uint8 (3, h, w) on 0..255 in the configured channel order.
An element of a batch: {"image", "height", "width" (original), and for training "boxes" float32
(n, 4) XYXY in the image's pixels, "classes" int64 (n,), "polygons" list of lists of float64 arrays
(or "bitmasks" bool (n, h, w)), "keypoints" float32 (n, K, 3)}; other keys are not looked at.
Specification: detectron2 `modeling/meta_arch/rcnn.py`, `structures/image_list.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.highpass import HighPass
from transfer.detection.torchvision_engine.architectures import architecture
from transfer.detection.torchvision_engine.cascade_roi_heads import CascadeHeadsSpec
from transfer.detection.torchvision_engine.fpn import FPN, FPNSpec
from transfer.detection.torchvision_engine.postprocess import postprocess
from transfer.detection.torchvision_engine.res5_roi_heads import Res5HeadsSpec
from transfer.detection.torchvision_engine.resnet import (
    C5ResNetSpec,
    ResNet,
    ResNetSpec,
    TinyResNetSpec,
)
from transfer.detection.torchvision_engine.roi_heads import RoiHeadsSpec
from transfer.detection.torchvision_engine.rpn import RPN, RPNSpec
from transfer.detection.torchvision_engine.simple_pyramid import (
    SimpleFeaturePyramid,
    SimplePyramidSpec,
)
from transfer.detection.torchvision_engine.standard_roi_heads import StandardHeadsSpec
from transfer.detection.torchvision_engine.structures import Detections, Targets

BackboneSpec = ResNetSpec | FPNSpec | TinyResNetSpec | SimplePyramidSpec
BACKBONES: dict[str, type[BackboneSpec]] = {
    "C4": ResNetSpec,
    "C5": C5ResNetSpec,
    "FPN": FPNSpec,
    "TINY": TinyResNetSpec,
    "VIT": SimplePyramidSpec,
}
# The spec that reads the keys of a second stage, by MODEL.ROI_HEADS.NAME.
ROI_HEADS: dict[str, type[RoiHeadsSpec]] = {
    "Res5ROIHeads": Res5HeadsSpec,
    "Res5ROIHeadsExtraNorm": Res5HeadsSpec,
    "StandardROIHeads": StandardHeadsSpec,
    "CascadeROIHeads": CascadeHeadsSpec,
}


@dataclass(frozen=True, kw_only=True)
class BaseSpec(ABC):
    """Is the common part of the specs of all detectors; `meta_architectures.META_ARCHITECTURES`
    names them.
    """

    backbone: BackboneSpec
    pixel_mean: tuple[float, ...]  # in INPUT.FORMAT order, on 0..255
    pixel_std: tuple[float, ...]
    highpass: HighPass | None = None  # the weights say it, the config does not

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode, highpass: HighPass | None = None) -> BaseSpec:
        """Reads the config; raises InputError, naming the key, for what no detector here can be."""

    @abstractmethod
    def build(self) -> BaseDetector:
        """Returns the detector, untrained and in training mode."""

    @property
    def architecture(self) -> str:
        """Returns the backbone's kind, a key of BACKBONES."""
        return next(kind for kind, spec in BACKBONES.items() if type(self.backbone) is spec)

    @property
    def resnet(self) -> ResNetSpec | None:
        """Returns the spec of the backbone, a ResNet-18 to -152; None for a ViT or tiny ResNet."""
        backbone = self.backbone.bottom_up if isinstance(self.backbone, FPNSpec) else self.backbone
        return backbone if isinstance(backbone, ResNetSpec) else None

    @property
    def backbone_name(self) -> str:
        """Returns the trunk's name in pretrain.backbones, or timm's, e.g. "resnet50"."""
        return self.backbone.trunk_name


@dataclass(frozen=True, kw_only=True)
class DetectorSpec(BaseSpec):
    """Describes a detector of two stages, MODEL.META_ARCHITECTURE GeneralizedRCNN.

    The spec of each part is next to its module; `dataclasses.replace` gives a variant.
    """

    rpn: RPNSpec
    roi_heads: RoiHeadsSpec

    @classmethod
    def from_config(cls, cfg: CfgNode, highpass: HighPass | None = None) -> DetectorSpec:
        """Reads the config; raises InputError, naming the key, for what no detector here can be."""
        model, kind = cfg.MODEL, architecture(cfg)
        heads = find(model.ROI_HEADS.NAME, ROI_HEADS, "MODEL.ROI_HEADS.NAME")
        if kind not in heads.architectures:
            works = [name for name, spec in ROI_HEADS.items() if kind in spec.architectures]
            raise InputError(
                f"MODEL.ROI_HEADS.NAME {model.ROI_HEADS.NAME} does not work with "
                f"MODEL.BACKBONE.NAME {model.BACKBONE.NAME}; set {' or '.join(works)}"
            )
        return cls(
            backbone=BACKBONES[kind].from_config(cfg),
            rpn=RPNSpec.from_config(cfg),
            roi_heads=heads.from_config(cfg),
            pixel_mean=tuple(model.PIXEL_MEAN),
            pixel_std=tuple(model.PIXEL_STD),
            highpass=highpass,
        )

    def __post_init__(self) -> None:
        """Raises InputError for maps that the backbone does not have."""
        self.backbone.check_maps(self.rpn.in_features, self.roi_heads.in_features)

    def build(self) -> Detector:
        """Returns the detector, untrained and in training mode."""
        return Detector(self)


class BaseDetector(nn.Module, ABC):
    """Is the common part of all detectors: it prepares the pixels of a batch and calls the methods
    that make losses and detections. The maps of its child `backbone` are given to `losses` in
    training, otherwise to `find`.
    """

    spec: BaseSpec
    pixel_mean: Tensor
    pixel_std: Tensor
    has_masks = has_keypoints = False

    def __init__(self, spec: BaseSpec, used: Sequence[str]) -> None:
        """Args: used: the backbone's maps that something is made of."""
        super().__init__()
        self.highpass = spec.highpass
        self.used = frozenset(used)
        # In Detectron2's order, so that a seed gives the same random weights in both.
        self.backbone = spec.backbone.build()
        self.size_divisibility = self.backbone.size_divisibility
        self.square_size = self.backbone.square_size
        for name, values in (("pixel_mean", spec.pixel_mean), ("pixel_std", spec.pixel_std)):
            # They are not persistent: a model file holds such facts about the weights apart.
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @abstractmethod
    def losses(
        self,
        features: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Returns scalar losses, by name; the sizes of the N images are (height, width)."""

    @abstractmethod
    def find(
        self, features: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Returns the N images' detections in pixels of the network's input."""

    @property
    def leaves_unused(self) -> bool:
        """Returns whether the backbone has layers for maps that no part uses: they do not get a
        gradient.
        """
        if isinstance(self.backbone, ResNet):
            return max(self.backbone.stages) > max(self.used)
        if not isinstance(self.backbone, (FPN, SimpleFeaturePyramid)):
            return False
        *own, below, top = self.backbone.out_features  # the top map is made of the one before it
        layers_on_top = isinstance(self.backbone, FPN) and self.backbone.top_block is not None
        if set(own) - self.used or (layers_on_top and top not in self.used):
            return True
        return not self.used & {below, top}

    @property
    def device(self) -> torch.device:
        """Returns where the weights are; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[Detections]:
        """Returns the scalar losses in training, otherwise N detections in the original images'
        pixels, without gradients.

        Raises:
            InputError: masks or keypoints are trained, and an image with objects does not have any.
        """
        if not self.training:
            with torch.no_grad():
                return self._detect(batch)
        targets = [Targets.from_sample(sample, self.device) for sample in batch]
        self._check_targets(batch, targets)
        images, sizes = self.preprocess([sample["image"] for sample in batch])
        return self.losses(self.backbone(images), sizes, targets)

    def _detect(self, batch: Sequence[Mapping[str, Any]]) -> list[Detections]:
        images, sizes = self.preprocess([sample["image"] for sample in batch])
        results = []
        for found, sample, size in zip(self.find(self.backbone(images), sizes), batch, sizes):
            original = (sample.get("height", size[0]), sample.get("width", size[1]))
            results.append(postprocess(found, size, original))
        return results

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Returns one batch (N, 3, H, W) of N images (3, h, w), and their own sizes (h, w).

        It normalises, filters, then pads right and below with 0 to the largest size of the batch
        and a multiple of the backbone's stride, or to the square that the backbone asks for: the
        padding is 0 for the network, not black.

        Raises:
            InputError: an image is larger than the square.
        """
        ready = [self._normalise(image.to(self.device, non_blocking=True)) for image in images]
        sizes = [(image.shape[-2], image.shape[-1]) for image in ready]
        divisor = max(self.size_divisibility, 1)
        height, width = (math.ceil(max(side) / divisor) * divisor for side in zip(*sizes))
        if self.square_size:
            if max(height, width) > self.square_size:
                raise InputError(
                    f"an image of {height} x {width} does not fit the backbone's square of "
                    f"{self.square_size} px; lower INPUT.MAX_SIZE_TRAIN and INPUT.MAX_SIZE_TEST"
                )
            height = width = self.square_size
        padded = [F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2])) for x in ready]
        return torch.stack(padded), sizes

    def _normalise(self, image: Tensor) -> Tensor:
        image = (image - self.pixel_mean) / self.pixel_std
        return image if self.highpass is None else self.highpass.apply(image[None])[0]

    def _check_targets(
        self, batch: Sequence[Mapping[str, Any]], targets: Sequence[Targets]
    ) -> None:
        for sample, target in zip(batch, targets):
            name = sample.get("file_name", "an image")
            if self.has_masks and len(target.boxes) and target.masks is None:
                raise InputError(
                    f"{name} has objects without a segmentation; set MODEL.MASK_ON False or use "
                    "annotations with masks"
                )
            if self.has_keypoints and target.keypoints is None:
                raise InputError(
                    f"{name} has no keypoints; set MODEL.KEYPOINT_ON False or use annotations with "
                    "keypoints"
                )


class Detector(BaseDetector):
    """Has the children `backbone`, `proposal_generator` and `roi_heads`: the state dict is
    Detectron2's.

    Its losses are loss_cls, loss_box_reg, (loss_mask, loss_keypoint,) loss_rpn_cls, loss_rpn_loc;
    of a cascade loss_cls_stage0, ...
    """

    spec: DetectorSpec

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__(spec, (*spec.rpn.in_features, *spec.roi_heads.in_features))
        self.spec = spec
        maps = {"channels": self.backbone.channels, "strides": self.backbone.strides}
        self.proposal_generator = RPN(spec.rpn, **maps)
        self.roi_heads = spec.roi_heads.build(**maps)
        self.has_masks = spec.roi_heads.mask_head is not None
        self.has_keypoints = getattr(spec.roi_heads, "keypoint_head", None) is not None

    def losses(
        self,
        features: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """See `BaseDetector`."""
        proposals, rpn_losses = self.proposal_generator(
            self._rpn_maps(features), sizes, [target.boxes for target in targets]
        )
        _, losses = self.roi_heads(features, proposals, sizes, targets)
        return {**losses, **rpn_losses}

    def find(
        self, features: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """See `BaseDetector`."""
        proposals, _ = self.proposal_generator(self._rpn_maps(features), sizes)
        return self.roi_heads(features, proposals, sizes)[0]

    def _rpn_maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.spec.rpn.in_features]
