"""RoIAlign: it pools features of one size for every box, from one or several feature maps.

N images, r boxes over all images, C channels, P side of the output.
Specification: detectron2 `modeling/poolers.py` (aligned RoIAlign; FPN's equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.ops import roi_align

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.boxes import area

# Lin et al. 2017: a box of ImageNet's crop size belongs on the map of ResNet's stride-16 level.
CANONICAL_SIZE, CANONICAL_LEVEL = 224, 4
POOLERS = {"ROIAlignV2": True, "ROIAlign": False}


@dataclass(frozen=True, kw_only=True)
class PoolerSpec:
    """Has the keys POOLER_* of MODEL.ROI_BOX_HEAD, .ROI_MASK_HEAD or .ROI_KEYPOINT_HEAD."""

    resolution: int  # side of the output, in cells
    sampling_ratio: int  # samples along a side of each output cell; 0: as many as it has pixels
    # True: pixels are areas, whose centres are at one half. Before Detectron2 they were points.
    aligned: bool

    @classmethod
    def from_config(cls, node: CfgNode) -> PoolerSpec:
        """Reads the node of the head that the pooler serves; InputError for an unknown kind."""
        if node.POOLER_TYPE not in POOLERS:
            raise InputError(
                f"POOLER_TYPE {node.POOLER_TYPE!r} of MODEL.ROI_BOX_HEAD, MODEL.ROI_MASK_HEAD or "
                f"MODEL.ROI_KEYPOINT_HEAD is not supported; known: {', '.join(POOLERS)}"
            )
        return cls(
            resolution=node.POOLER_RESOLUTION,
            sampling_ratio=node.POOLER_SAMPLING_RATIO,
            aligned=POOLERS[node.POOLER_TYPE],
        )


def assign_levels(boxes: Tensor, lowest: int, highest: int) -> Tensor:
    """Returns each box's map, (r,) from 0 for `lowest` to `highest`, by the square root of area."""
    sizes = torch.sqrt(area(boxes))
    # The addend keeps the logarithm finite for a box without area.
    levels = torch.floor(CANONICAL_LEVEL + torch.log2(sizes / CANONICAL_SIZE + 1e-8))
    return levels.clamp(lowest, highest).to(torch.int64) - lowest


class RoiPooler:
    """Pools every box from the map that its size asks for; with one map, from that."""

    def __init__(self, spec: PoolerSpec, strides: Sequence[int]) -> None:
        """Args: strides: the strides of the maps, increasing powers of two, in pixels."""
        self.resolution, self.sampling_ratio = spec.resolution, spec.sampling_ratio
        self.strides, self.aligned = tuple(strides), spec.aligned

    def __call__(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Returns features (r, C, P, P), image by image; maps (N, C, H, W), N tensors (., 4)."""
        rois = torch.cat([_with_image(image, box) for image, box in enumerate(boxes)])
        if len(self.strides) == 1:
            return self._pool(features[0], rois, self.strides[0])
        lowest, highest = (int(math.log2(stride)) for stride in (self.strides[0], self.strides[-1]))
        levels = assign_levels(torch.cat(list(boxes)), lowest, highest)
        side = self.resolution
        pooled = features[0].new_zeros(len(rois), features[0].shape[1], side, side)
        for chosen, feature, stride in zip(
            _by_level(levels, len(features)), features, self.strides
        ):
            pooled.index_put_((chosen,), self._pool(feature, rois[chosen], stride))
        return pooled

    def _pool(self, feature: Tensor, rois: Tensor, stride: int) -> Tensor:
        size = (self.resolution, self.resolution)
        options = (size, 1.0 / stride, self.sampling_ratio, self.aligned)
        if feature.dtype == torch.bfloat16:
            # Its 8 bits would move boxes by several pixels; fp16 moves them as in Detectron2.
            return roi_align(feature.float(), rois, *options).to(feature.dtype)
        return roi_align(feature, rois.to(feature.dtype), *options)


def _by_level(levels: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns each map's rows of levels (r,), in ascending order; a GPU waits once for all."""
    maps = torch.arange(count, device=levels.device)
    sizes: list[int] = (levels == maps[:, None]).sum(dim=1).tolist()
    return levels.argsort(stable=True).split(sizes)


def _with_image(image: int, boxes: Tensor) -> Tensor:
    """Returns boxes (n, 5) with the image's number in front of (n, 4), as roi_align reads them."""
    return torch.cat([boxes.new_full((len(boxes), 1), image), boxes], dim=1)
