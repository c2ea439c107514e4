"""ViTDet's simple feature pyramid: one map of a ViT in, maps p2..p6 of equal width out.

N batch, D the ViT's width. Every level is made from the ViT's last map alone: deconvolved to
strides 4 and 8, as it is at 16, max-pooled to 32; p6 is p5 subsampled.
Specification: Li et al. 2022 (arXiv 2203.16527) as in detectron2 `modeling/backbone/vit.py`.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from transfer.detection.torchvision_engine.batchnorm import make_norm
from transfer.detection.torchvision_engine.layers import ConvNorm
from transfer.detection.torchvision_engine.vit import ViT

SCALES = (4.0, 2.0, 1.0, 0.5)  # of the ViT's map


class SimpleFeaturePyramid(nn.Module):
    """Children `net`, `simfp_2`, `simfp_3`, ... (log2 of the stride)."""

    def __init__(self, net: ViT, *, out_channels: int, norm: str, square_size: int) -> None:
        """Args: square_size: side in pixels that images are padded to."""
        super().__init__()
        self.square_size = square_size
        self.stages: list[str] = []
        self.strides: dict[str, int] = {}
        for scale in SCALES:
            stride = int(net.stride / scale)
            level = int(math.log2(stride))
            channels, layers = _rescale(net.out_channels, scale, norm)
            for inputs, kernel_size in ((channels, 1), (out_channels, 3)):
                bias = norm == ""
                layers.append(ConvNorm(inputs, out_channels, kernel_size, norm=norm, bias=bias))
            self.add_module(f"simfp_{level}", nn.Sequential(*layers))
            self.stages.append(f"simfp_{level}")
            self.strides[f"p{level}"] = stride
        self.strides[f"p{level + 1}"] = 2 * stride
        self.net = net
        self.out_features = tuple(self.strides)
        self.channels = {name: out_channels for name in self.out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, out_channels, H / 4, W / 4), ..., "p6": ...}."""
        features = self.net(x)
        maps = [getattr(self, name)(features) for name in self.stages]
        maps.append(F.max_pool2d(maps[-1], kernel_size=1, stride=2, padding=0))
        return dict(zip(self.out_features, maps))


def _rescale(width: int, scale: float, norm: str) -> tuple[int, list[nn.Module]]:
    """Channels after, and the layers of, the change from the ViT's stride to a level's."""
    if scale == 4.0:
        half, quarter = width // 2, width // 4
        between = make_norm(norm, half) or nn.Identity()
        first = nn.ConvTranspose2d(width, half, kernel_size=2, stride=2)
        second = nn.ConvTranspose2d(half, quarter, kernel_size=2, stride=2)
        return quarter, [first, between, nn.GELU(), second]
    if scale == 2.0:
        return width // 2, [nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2)]
    return width, [] if scale == 1.0 else [nn.MaxPool2d(kernel_size=2, stride=2)]
