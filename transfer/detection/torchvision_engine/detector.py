"""The whole detector: a batch of images in, losses (training) or detections (evaluation) out.

N images of a batch, each float32 or uint8 (3, h, w) on 0..255 in the configured channel order.
An element of a batch: {"image", "height", "width" (original), and for training "boxes" float32
(n, 4) XYXY in the image's pixels, "classes" int64 (n,), "polygons" list of lists of float64 arrays
(or "bitmasks" bool (n, h, w))}; other keys are not looked at.
Specification: detectron2 `modeling/meta_arch/rcnn.py`, `structures/image_list.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.postprocess import postprocess
from transfer.detection.torchvision_engine.roi_heads import RoiHeads
from transfer.detection.torchvision_engine.rpn import RPN
from transfer.detection.torchvision_engine.spec import DetectorSpec
from transfer.detection.torchvision_engine.structures import Detections, Targets

__all__ = ["Detections", "Detector"]


class Detector(nn.Module):
    """Children `backbone`, `proposal_generator`, `roi_heads`: the state dict is Detectron2's."""

    def __init__(
        self,
        spec: DetectorSpec,
        *,
        backbone: nn.Module,
        proposal_generator: RPN,
        roi_heads: RoiHeads,
        rpn_features: tuple[str, ...],
        leaves_unused: bool = False,
    ) -> None:
        """Args:
        rpn_features: names of the backbone's maps that proposals are made on.
        leaves_unused: whether some parameters take no part in any loss.
        """
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.rpn_features = rpn_features
        self.leaves_unused = leaves_unused
        self.size_divisibility = getattr(backbone, "size_divisibility", 0)
        self.square_size = getattr(backbone, "square_size", 0)
        for name in ("pixel_mean", "pixel_std"):
            value = torch.tensor(getattr(spec, name)).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are; inputs are moved there."""
        return self.pixel_mean.device

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[Detections]:
        """In training the scalar losses loss_cls, loss_box_reg, (loss_mask,) loss_rpn_cls,
        loss_rpn_loc; else N detections in the original images' pixels, without gradients.

        Raises:
            InputError: masks are trained and an image with objects brings none.
        """
        if not self.training:
            with torch.no_grad():
                return self._detect(batch)
        targets = [Targets.from_sample(sample, self.device) for sample in batch]
        self._check_masks(batch, targets)
        images, sizes = self.preprocess([sample["image"] for sample in batch])
        features = self.backbone(images)
        proposals, rpn_losses = self.proposal_generator(
            self._rpn_maps(features), sizes, [target.boxes for target in targets]
        )
        _, losses = self.roi_heads(features, proposals, sizes, targets)
        return {**losses, **rpn_losses}

    def _detect(self, batch: Sequence[Mapping[str, Any]]) -> list[Detections]:
        images, sizes = self.preprocess([sample["image"] for sample in batch])
        features = self.backbone(images)
        proposals, _ = self.proposal_generator(self._rpn_maps(features), sizes)
        detections, _ = self.roi_heads(features, proposals, sizes)
        results = []
        for found, sample, size in zip(detections, batch, sizes):
            original = (sample.get("height", size[0]), sample.get("width", size[1]))
            results.append(postprocess(found, size, original))
        return results

    def preprocess(self, images: Sequence[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """N images (3, h, w) -> (N, 3, H, W) and their own sizes (h, w).

        Normalise, filter, then pad right and below with 0 to the largest size of the batch and a
        multiple of the backbone's stride, or to the square that the backbone asks for: the padding
        is 0 for the network, not black.

        Raises:
            InputError: an image is larger than the square.
        """
        ready = [self._normalise(image.to(self.device)) for image in images]
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
        highpass = self.spec.highpass
        return image if highpass is None else highpass.apply(image[None])[0]

    def _rpn_maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.rpn_features]

    def _check_masks(self, batch: Sequence[Mapping[str, Any]], targets: Sequence[Targets]) -> None:
        if self.roi_heads.mask_head is None:
            return
        for sample, target in zip(batch, targets):
            if len(target.boxes) and target.masks is None:
                raise InputError(
                    f"{sample.get('file_name', 'an image')} has objects without a segmentation; "
                    "set MODEL.MASK_ON False or use annotations with masks"
                )
