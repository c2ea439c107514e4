"""Detectron2's ResNet rebuilt without Detectron2, to prove a conversion against.

Written from its modeling/backbone/resnet.py (STRIDE_IN_1X1 False) and independent of
`pretrain.backbones`, so that an error there or in the name map shows as a difference.
Input (N, 3, H, W); a stage's output is (N, C, H / stride, W / stride).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.common.lookup import find

# name -> (bottleneck?, blocks of each stage, channels out of the stem, stem with 7x7 and pooling?)
DEPTHS: dict[str, tuple[bool, tuple[int, ...], int, bool]] = {
    "tiny_resnet": (False, (1, 1, 1), 32, False),
    "resnet18": (False, (2, 2, 2, 2), 64, True),
    "resnet34": (False, (3, 4, 6, 3), 64, True),
    "resnet50": (True, (3, 4, 6, 3), 64, True),
    "resnet101": (True, (3, 4, 23, 3), 64, True),
    "resnet152": (True, (3, 8, 36, 3), 64, True),
}


class NormedConv(nn.Conv2d):
    """A convolution without bias that owns its batch norm, as Detectron2's wrapper does."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Stem(nn.Module):
    """Convolution, norm, ReLU, and max pooling where the network has it."""

    def __init__(self, outputs: int, large: bool) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, outputs, 7 if large else 3, stride=2)
        self.large = large

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.large else x


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 (which strides), 1x1; a shortcut where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        changes = inputs != outputs or stride != 1
        self.shortcut = NormedConv(inputs, outputs, 1, stride) if changes else None
        if bottleneck:
            width = outputs // 4
            self.conv1 = NormedConv(inputs, width, 1)
            self.conv2 = NormedConv(width, width, 3, stride)
            self.conv3 = NormedConv(width, outputs, 1)
        else:
            self.conv1 = NormedConv(inputs, outputs, 3, stride)
            self.conv2 = NormedConv(outputs, outputs, 3)
            self.conv3 = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            out = self.conv3(F.relu(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Detectron2ResNet(nn.Module):
    """`stem`, `res2`, `res3`, ... as in Detectron2; stages are reported under canonical names."""

    def __init__(self, backbone: str) -> None:
        """Args: backbone: a name of DEPTHS (InputError otherwise)."""
        super().__init__()
        bottleneck, depths, channels, large = find(backbone, DEPTHS, "backbone")
        self.stem = Stem(channels, large)
        self.stages = tuple(f"layer{index + 1}" for index in range(len(depths)))
        inputs = channels
        for index, depth in enumerate(depths):
            outputs = channels * 2**index * (4 if bottleneck else 1)
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                blocks.append(Block(inputs, outputs, stride, bottleneck))
                inputs = outputs
            self.add_module(f"res{index + 2}", nn.Sequential(*blocks))

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> the maps after "stem", "layer1", ..."""
        x = self.stem(x)
        maps = {"stem": x}
        for index, stage in enumerate(self.stages):
            x = maps[stage] = getattr(self, f"res{index + 2}")(x)
        return maps
