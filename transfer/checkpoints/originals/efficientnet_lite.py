"""An EfficientNet-Lite on lukemelas' names, and timm's network, to prove a conversion against.

Written from "EfficientNet" (arXiv 1905.11946) and its authors' efficientnet_lite_builder.py: a 3x3
convolution of stride 2, then blocks of a 1x1 convolution that widens (not in the first), a
depthwise one and a 1x1 one that narrows, each before a batch norm (epsilon 1e-3), with ReLU6 behind
all but the last; a shortcut if a block keeps size and width; a 1x1 convolution and the mean.
Convolutions are padded as TensorFlow's. The converter's tables are not used here.
N batch; maps are (N, D, H, W).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.checkpoints.originals.resnet import pad_same

EPS = 1e-3
# The blocks that halve the map are the first of the second, third, fourth and sixth kind of block.
KINDS = ((3, 1), (3, 2), (5, 2), (3, 2), (5, 1), (5, 2), (3, 1))  # kernel, stride


class PlainEfficientNetLite(nn.Module):
    """Computes the network on a mapping of tensors; each tensor is looked up by its own name."""

    def __init__(self, tensors: Mapping[str, Tensor], repeats: tuple[int, ...]) -> None:
        """Args: repeats: number of blocks of each kind."""
        super().__init__()
        self.tensors = tensors
        self.strides = [
            stride if number == 0 else 1
            for (_, stride), count in zip(KINDS, repeats)
            for number in range(count)
        ]

    def _conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = self.tensors[f"{name}.weight"].float()
        x = pad_same(x, kernel.shape[-1], stride)
        return F.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        get = {leaf: self.tensors[f"{name}.{leaf}"].float().view(1, -1, 1, 1) for leaf in _LEAVES}
        scaled = (x - get["running_mean"]) / (get["running_var"] + EPS).sqrt()
        return scaled * get["weight"] + get["bias"]

    def _block(self, x: Tensor, number: int) -> Tensor:
        head, out = f"_blocks.{number}.", x
        if number:
            out = F.relu6(self._norm(self._conv(out, f"{head}_expand_conv"), f"{head}_bn0"))
        stride = self.strides[number]
        out = self._conv(out, f"{head}_depthwise_conv", stride)
        out = F.relu6(self._norm(out, f"{head}_bn1"))
        out = self._norm(self._conv(out, f"{head}_project_conv"), f"{head}_bn2")
        return x + out if stride == 1 and out.shape[1] == x.shape[1] else out

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns images' (N, 3, H, W) last maps of strides 2 to 32, and "features" (N, D)."""
        x = F.relu6(self._norm(self._conv(x, "_conv_stem", 2), "_bn0"))
        stride, maps = 2, {}
        for number, own in enumerate(self.strides):
            x = self._block(x, number)
            stride *= own
            maps[f"stride{stride}"] = x  # the last map of a stride is kept
        x = F.relu6(self._norm(self._conv(x, "_conv_head"), "_bn1"))
        return {**maps, "features": x.mean(dim=(2, 3))}


_LEAVES = ("weight", "bias", "running_mean", "running_var")


class TimmConvNet(nn.Module):
    """Is one of timm's ConvNets, with the last maps of strides 2, 4, ..., 32 (those it has)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) by stride, and "features" (N, D)."""
        intermediates = getattr(self.network, "forward_intermediates")
        found: list[Tensor] = intermediates(x, intermediates_only=True)
        maps = {f"stride{round(x.shape[-1] / one.shape[-1])}": one for one in found}
        return {**maps, "features": self.network(x)}
