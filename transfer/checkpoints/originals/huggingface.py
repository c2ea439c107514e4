"""The ResNet of Hugging Face transformers, under its own names, to prove a conversion against.

Written from the description of models/resnet/modeling_resnet.py: convolutions without bias and
their norms are pairs, a block is a sequence of pairs next to a shortcut pair, a bottleneck strides
in its second pair, or in its first if `downsample_in_bottleneck` is set.
Input (N, 3, H, W); a stage's output is (N, C, H / stride, W / stride).
"""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.common.lookup import find
from transfer.checkpoints.originals.resnet import SIZES


class Pair(nn.Module):
    """Contains `convolution` and `normalization`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization(self.convolution(x))


class Layer(nn.Module):
    """Is a block; `width` of a bottleneck's 3x3 convolution, None for a block of two 3x3."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, width: int | None, first: bool
    ) -> None:
        """Args: first: a bottleneck strides in its first convolution."""
        super().__init__()
        if inputs != outputs or stride != 1:
            self.shortcut = Pair(inputs, outputs, 1, stride)
        if width is None:
            parts = [Pair(inputs, outputs, 3, stride), Pair(outputs, outputs, 3)]
        else:
            strides = (stride, 1) if first else (1, stride)
            parts = [
                Pair(inputs, width, 1, strides[0]),
                Pair(width, width, 3, strides[1]),
                Pair(width, outputs, 1),
            ]
        self.layer = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number, pair in enumerate(self.layer):
            out = pair(F.relu(out) if number else out)
        return F.relu(out + (self.shortcut(x) if hasattr(self, "shortcut") else x))


class HfResNet(nn.Module):
    """Has the children `embedder` and `encoder.stages`; stages have canonical names."""

    def __init__(self, backbone: str, stride_in_1x1: bool = False) -> None:
        """Args: backbone: a name of `originals.resnet.SIZES` (InputError otherwise)."""
        super().__init__()
        size = find(backbone, SIZES, "backbone")
        self.large = size.large
        pair = Pair(3, size.stem, 7 if size.large else 3, 2)
        self.embedder = nn.ModuleDict({"embedder": pair})
        stages = []
        inputs = size.stem
        for index, depth in enumerate(size.blocks):
            outputs = size.stem * 2**index * (4 if size.bottleneck else 1)
            width = size.width * 2**index if size.bottleneck else None
            layers = nn.Sequential()
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                layers.append(Layer(inputs, outputs, stride, width, stride_in_1x1))
                inputs = outputs
            stages.append(nn.Sequential(OrderedDict(layers=layers)))
        self.encoder = nn.ModuleDict({"stages": nn.Sequential(*stages)})

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "layer1", ..."""
        x = F.relu(self.embedder["embedder"](x))
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.large else x
        maps = {"stem": x}
        for index, stage in enumerate(self.encoder["stages"].children()):
            x = maps[f"layer{index + 1}"] = stage(x)
        return maps
