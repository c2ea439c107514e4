"""ViTDet's simple feature pyramid: maps p2..p6 of equal width, made from one map of a ViT.

N batch, D the ViT's width. Every level is made from the ViT's last map alone: deconvolved to
strides 4 and 8, as it is at 16, max-pooled to 32; p6 is p5 subsampled.
Specification: Li et al. 2022 (arXiv 2203.16527) as in detectron2 `modeling/backbone/vit.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.batchnorm import check_norm, make_norm
from transfer.detection.torchvision_engine.feature_map_checks import check_pyramid
from transfer.detection.torchvision_engine.layers import ConvNorm
from transfer.detection.torchvision_engine.vit import ViT, ViTSpec

SCALES = (4.0, 2.0, 1.0, 0.5)  # sides of the maps, relative to the ViT's map


@dataclass(frozen=True, kw_only=True)
class SimplePyramidSpec:
    """Has the keys of the node MODEL.FPN on a ViT."""

    vit: ViTSpec
    out_channels: int
    norm: str

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SimplePyramidSpec:
        """Reads the config; raises InputError for values that make no pyramid."""
        return cls(
            vit=ViTSpec.from_config(cfg),
            out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
            norm=cfg.MODEL.FPN.NORM,
        )

    def __post_init__(self) -> None:
        """Raises InputError for values that make no pyramid."""
        patch, side = self.vit.patch_size, self.vit.image_size
        if patch < 4 or patch & (patch - 1):
            raise InputError(f"TRANSFER.VIT.PATCH_SIZE {patch} must be a power of two, at least 4")
        coarsest = 2 * patch  # the stride of p5, of which every side must be a multiple
        if side < 1 or side % coarsest:
            raise InputError(
                f"TRANSFER.VIT.IMAGE_SIZE {side} must be a multiple of {coarsest}, twice the patch"
            )
        check_norm("MODEL.FPN.NORM", self.norm)
        if not self.norm:
            raise InputError(
                "MODEL.FPN.NORM '' is not possible with the simple feature pyramid; set LN"
            )

    @property
    def trunk_name(self) -> str:
        """See `ViTSpec`."""
        return self.vit.trunk_name

    @property
    def levels(self) -> list[int]:
        """Returns log2 of the strides that are made from the ViT's map, the finest first."""
        return [int(math.log2(self.vit.patch_size / scale)) for scale in SCALES]

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for maps that the pyramid does not have; see `features`."""
        check_pyramid([f"p{level}" for level in (*self.levels, self.levels[-1] + 1)], rpn, roi)

    def build(self) -> SimpleFeaturePyramid:
        """Returns the pyramid with its ViT, untrained."""
        return SimpleFeaturePyramid(self)


class SimpleFeaturePyramid(nn.Module):
    """Has the children `net`, `simfp_2`, `simfp_3`, ... (log2 of the stride)."""

    size_divisibility = 0

    def __init__(self, spec: SimplePyramidSpec) -> None:
        net = ViT(spec.vit)  # first, as upstream: a seed draws the same weights
        super().__init__()
        # Images are padded to it: the ViT's relative positions are made for one size.
        self.square_size = spec.vit.image_size
        self.stages: list[str] = []
        self.strides: dict[str, int] = {}
        for scale, level in zip(SCALES, spec.levels):
            channels, layers = _rescale(net.out_channels, scale, spec.norm)
            for inputs, kernel_size in ((channels, 1), (spec.out_channels, 3)):
                layers.append(ConvNorm(inputs, spec.out_channels, kernel_size, norm=spec.norm))
            self.add_module(f"simfp_{level}", nn.Sequential(*layers))
            self.stages.append(f"simfp_{level}")
            self.strides[f"p{level}"] = 2**level
        self.strides[f"p{level + 1}"] = 2 ** (level + 1)
        self.net = net
        self.out_features = tuple(self.strides)
        self.channels = {name: spec.out_channels for name in self.out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns maps "p2" (N, out_channels, H / 4, W / 4) to "p6" of images (N, 3, H, W)."""
        features = self.net(x)
        maps = [getattr(self, name)(features) for name in self.stages]
        maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2, padding=0))
        return dict(zip(self.out_features, maps))


def _rescale(width: int, scale: float, norm: str) -> tuple[int, list[nn.Module]]:
    """Returns channels after, and the layers of, the change from the ViT's stride to a level's."""
    if scale == 4.0:
        half, quarter = width // 2, width // 4
        between = make_norm(norm, half) or nn.Identity()
        first = nn.ConvTranspose2d(width, half, kernel_size=2, stride=2)
        second = nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2)
        return quarter, [first, between, nn.GELU(), second]
    if scale == 2.0:
        return width // 2, [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]
    return width, [] if scale == 1.0 else [nn.MaxPool2d(kernel_size=2, stride=2)]
