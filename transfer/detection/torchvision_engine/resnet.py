"""ResNets in Detectron2's layout and names: images in, the maps of the stages res2.. out.

N batch. Input (N, 3, H, W), normalised; outputs (N, channels, H / stride, W / stride). With
stride_in_1x1=False the bottlenecks are torchvision's, number for number.
Specification: detectron2 `modeling/backbone/resnet.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from transfer.detection.torchvision_engine.batchnorm import freeze
from transfer.detection.torchvision_engine.layers import ConvNorm, init_msra

BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Stem(nn.Module):
    """7x7 stride-2 convolution and 3x3 stride-2 max-pool; or the tiny 3x3 stride-2 convolution."""

    def __init__(
        self, channels: int, *, norm: str, kernel_size: int = 7, pool: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, kernel_size, stride=2, norm=norm, relu=True)
        init_msra(self.conv1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, channels, H / 4, W / 4), or H / 2, W / 2 without the pool."""
        x = self.conv1(x)
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.pool else x


class Block(nn.Module):
    """What both residual blocks share: the shortcut (where channels change) and the sum."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__()
        project = inputs != outputs
        self.shortcut = ConvNorm(inputs, outputs, 1, stride=stride, norm=norm) if project else None

    def add_shortcut(self, x: Tensor, out: Tensor) -> Tensor:
        """relu(out + shortcut(x)), written into `out`."""
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)

    def _init_convolutions(self, *layers: ConvNorm) -> None:
        for layer in (*layers, self.shortcut):
            if layer is not None:
                init_msra(layer)


class BasicBlock(Block):
    """Two 3x3 convolutions, of ResNet-18 and -34."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__(inputs, outputs, stride=stride, norm=norm)
        self.conv1 = ConvNorm(inputs, outputs, 3, stride=stride, norm=norm, relu=True)
        self.conv2 = ConvNorm(outputs, outputs, 3, norm=norm)
        self._init_convolutions(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.add_shortcut(x, self.conv2(self.conv1(x)))


class Bottleneck(Block):
    """1x1, 3x3, 1x1 convolutions; the stride lies on the 3x3, or on the first 1x1 (MSRA's)."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, norm: str, stride_in_1x1: bool
    ) -> None:
        super().__init__(inputs, outputs, stride=stride, norm=norm)
        middle = outputs // 4
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(inputs, middle, 1, stride=first, norm=norm, relu=True)
        self.conv2 = ConvNorm(middle, middle, 3, stride=second, norm=norm, relu=True)
        self.conv3 = ConvNorm(middle, outputs, 1, norm=norm)
        self._init_convolutions(self.conv1, self.conv2, self.conv3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        return self.add_shortcut(x, self.conv3(self.conv2(self.conv1(x))))


def make_stage(
    *, depth: int, stage: int, inputs: int, norm: str, stride_in_1x1: bool
) -> nn.Sequential:
    """The blocks of res`stage` (2..5) of a ResNet of `depth`; the first block has the stride."""
    width = 64 * 2 ** (stage - 2)
    outputs = width if depth < 50 else 4 * width
    blocks: list[nn.Module] = []
    for index in range(BLOCKS_PER_STAGE[depth][stage - 2]):
        stride = 2 if index == 0 and stage > 2 else 1
        if depth < 50:
            block = BasicBlock(inputs, outputs, stride=stride, norm=norm)
        else:
            block = Bottleneck(
                inputs, outputs, stride=stride, norm=norm, stride_in_1x1=stride_in_1x1
            )
        blocks.append(block)
        inputs = outputs
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """A stem and consecutive stages; children `stem`, `res2`, `res3`, ..."""

    def __init__(
        self, stem: Stem, stages: dict[str, nn.Sequential], *, out_features: tuple[str, ...]
    ) -> None:
        """Args: out_features: the stages whose maps `forward` returns."""
        super().__init__()
        self.stem = stem
        self.stages = tuple(stages)
        self.out_features = out_features
        stride = 4 if stem.pool else 2
        self.strides: dict[str, int] = {}
        self.channels: dict[str, int] = {}
        for name, stage in stages.items():
            self.add_module(name, stage)
            stride *= 1 if name == "res2" else 2
            self.strides[name] = stride
            self.channels[name] = list(stage[-1].children())[-1].out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {stage: (N, channels[stage], H / strides[stage], W / strides[stage])}."""
        x = self.stem(x)
        maps = {}
        for name in self.stages:
            x = maps[name] = getattr(self, name)(x)
        return {name: maps[name] for name in self.out_features}

    def freeze(self, freeze_at: int) -> None:
        """Fix the stem (freeze_at >= 1) and the stages up to res`freeze_at`."""
        if freeze_at >= 1:
            freeze(self.stem)
        for name in self.stages:
            if freeze_at >= int(name[3:]):
                freeze(getattr(self, name))


def make_resnet(
    *,
    depth: int,
    norm: str,
    freeze_at: int,
    stride_in_1x1: bool,
    out_features: tuple[str, ...],
) -> ResNet:
    """ResNet-18 .. 101 up to the last of `out_features`.

    All four stages are made and the later ones dropped, as upstream does: so the layers that follow
    draw the same random weights for a seed.
    """
    stem = Stem(64, norm=norm)
    stages: dict[str, nn.Sequential] = {}
    inputs = 64
    for stage in range(2, 6):
        stages[f"res{stage}"] = make_stage(
            depth=depth, stage=stage, inputs=inputs, norm=norm, stride_in_1x1=stride_in_1x1
        )
        inputs = (64 if depth < 50 else 256) * 2 ** (stage - 2)
    kept = {name: stage for name, stage in stages.items() if name <= max(out_features)}
    resnet = ResNet(stem, kept, out_features=out_features)
    resnet.freeze(freeze_at)
    return resnet


def make_tiny_resnet(*, norm: str, freeze_at: int) -> ResNet:
    """The digits' backbone: 3x3 stride-2 stem of 32, BasicBlocks of 32, 64, 128, total stride 8."""
    stages = {
        "res2": nn.Sequential(BasicBlock(32, 32, stride=1, norm=norm)),
        "res3": nn.Sequential(BasicBlock(32, 64, stride=2, norm=norm)),
        "res4": nn.Sequential(BasicBlock(64, 128, stride=2, norm=norm)),
    }
    stem = Stem(32, norm=norm, kernel_size=3, pool=False)
    resnet = ResNet(stem, stages, out_features=("res4",))
    resnet.freeze(freeze_at)
    return resnet
