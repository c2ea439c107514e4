"""Detectron2's ResNet rebuilt without Detectron2, to prove a conversion against.

Written from its modeling/backbone/resnet.py and independent of `pretrain.backbones`, so an error
there or in the name map shows as a difference. The layouts of other frameworks are filled into the
same class (`foreign_resnet.py`), so it also has TensorFlow's padding. Input (N, 3, H, W); a stage's
output is (N, C, H / stride, W / stride).
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.common.lookup import find


class Size(NamedTuple):
    """Describes the layers of a ResNet.

    Attributes:
        blocks: the number of blocks in each stage.
        stem: channels of the stem. large: whether the stem is 7x7 with pooling.
        width: channels of the first bottleneck.
        groups: groups of the bottlenecks' 3x3 convolutions.
    """

    bottleneck: bool
    blocks: tuple[int, ...]
    stem: int
    width: int
    large: bool = True
    groups: int = 1


SIZES: dict[str, Size] = {
    "tiny_resnet": Size(False, (1, 1, 1), 32, 32, False),
    "resnet18": Size(False, (2, 2, 2, 2), 64, 64),
    "resnet34": Size(False, (3, 4, 6, 3), 64, 64),
    "resnet50": Size(True, (3, 4, 6, 3), 64, 64),
    "resnet101": Size(True, (3, 4, 23, 3), 64, 64),
    "resnet152": Size(True, (3, 8, 36, 3), 64, 64),
    "wide_resnet50_2": Size(True, (3, 4, 6, 3), 64, 128),
    "wide_resnet101_2": Size(True, (3, 4, 23, 3), 64, 128),
    "resnet50w2": Size(True, (3, 4, 6, 3), 128, 128),
    "resnet50w4": Size(True, (3, 4, 6, 3), 256, 256),
    "resnext50_32x4d": Size(True, (3, 4, 6, 3), 64, 128, groups=32),
    "resnext101_32x4d": Size(True, (3, 4, 23, 3), 64, 128, groups=32),
    "resnext101_32x8d": Size(True, (3, 4, 23, 3), 64, 256, groups=32),
    "resnext101_64x4d": Size(True, (3, 4, 23, 3), 64, 256, groups=64),
    "resnext152_32x8d": Size(True, (3, 8, 36, 3), 64, 256, groups=32),
}


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pads as TensorFlow's "SAME": with the zeros that ceil(H / stride) windows need, an odd one
    at the end.
    """
    pads = []
    for side in (x.shape[3], x.shape[2]):
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class NormedConv(nn.Conv2d):
    """Is a convolution without bias that owns its batch norm, as Detectron2's wrapper does."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        same: bool = False,
        groups: int = 1,
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding=0 if same else kernel // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        return self.norm(super().forward(x))


class Stem(nn.Module):
    """Applies a convolution, a norm, ReLU, and max pooling if the network has it."""

    def __init__(self, outputs: int, large: bool, padding: str | None) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, outputs, 7 if large else 3, stride=2, same=padding == "same")
        self.large, self.same_pool = large, padding is not None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        if self.same_pool:  # after a ReLU, padding with zeros is the same as with minus infinity
            return F.max_pool2d(pad_same(x, 3, 2), kernel_size=3, stride=2)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.large else x


class Block(nn.Module):
    """Has two 3x3 convolutions, or three of 1x1, 3x3, 1x1, and a shortcut if shapes change.

    Args:
        width: channels of a bottleneck's 3x3 convolution; None: a block of two convolutions.
        groups: groups of that convolution.
        stride_in_1x1: a bottleneck strides in its first convolution instead of the 3x3.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        width: int | None,
        groups: int,
        stride_in_1x1: bool,
        same: bool,
    ) -> None:
        super().__init__()
        changes = inputs != outputs or stride != 1
        self.shortcut = NormedConv(inputs, outputs, 1, stride, same) if changes else None
        if width is not None:
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            self.conv1 = NormedConv(inputs, width, 1, first, same)
            self.conv2 = NormedConv(width, width, 3, second, same, groups)
            self.conv3: NormedConv | None = NormedConv(width, outputs, 1, 1, same)
        else:
            self.conv1 = NormedConv(inputs, outputs, 3, stride, same)
            self.conv2 = NormedConv(outputs, outputs, 3, 1, same)
            self.conv3 = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(F.relu(self.conv1(x)))
        if self.conv3 is not None:
            out = self.conv3(F.relu(out))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Detectron2ResNet(nn.Module):
    """Has the children `stem`, `res2`, `res3`, ... as in Detectron2; stages are reported under
    canonical names.
    """

    def __init__(
        self, backbone: str, stride_in_1x1: bool = False, padding: str | None = None
    ) -> None:
        """See `Weights.architecture`.

        Args:
            backbone: a name of SIZES (InputError otherwise).
            padding: None is torch's.
        """
        super().__init__()
        size = find(backbone, SIZES, "backbone")
        same = padding == "same"
        self.stem = Stem(size.stem, size.large, padding)
        self.stages = tuple(f"layer{index + 1}" for index in range(len(size.blocks)))
        inputs = size.stem
        for index, depth in enumerate(size.blocks):
            outputs = size.stem * 2**index * (4 if size.bottleneck else 1)
            width = size.width * 2**index if size.bottleneck else None
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                shape = (inputs, outputs, stride, width, size.groups)
                blocks.append(Block(*shape, stride_in_1x1, same))
                inputs = outputs
            self.add_module(f"res{index + 2}", nn.Sequential(*blocks))

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "layer1", ..."""
        x = self.stem(x)
        maps = {"stem": x}
        for index, stage in enumerate(self.stages):
            x = maps[stage] = getattr(self, f"res{index + 2}")(x)
        return maps
