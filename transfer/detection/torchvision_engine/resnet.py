"""ResNets in Detectron2's layout and names, which return the maps of their stages res2, res3, ...

N batch. Input (N, 3, H, W), normalised; outputs (N, channels, H / stride, W / stride). With
stride_in_1x1=False the bottlenecks are torchvision's, number for number; so are those of a ResNeXt
(groups) and of a wide ResNet (width_per_group).
Specification: detectron2 `modeling/backbone/resnet.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.batchnorm import check_norm, freeze
from transfer.detection.torchvision_engine.feature_map_checks import (
    OUT,
    ROI_IN,
    RPN_IN,
    STAGES,
    check_equal,
    check_known,
    check_one,
)
from transfer.detection.torchvision_engine.layers import ConvNorm, init_msra

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEM_CHANNELS = 64
USUAL_WIDTH = 64  # channels of the 3x3 convolution in res2, in one group
DILATIONS = (1, 2)  # the possible ones of res5; Detectron2 asserts it
FREEZE_AT = range(6)  # 0: nothing, 1: the stem, 2: stem and res2, ..., 5: all
# The tiny ResNet's stem, and its stages as (inputs, outputs, stride) of their only block.
TINY_STEM_CHANNELS = 32
TINY_STAGES = ((32, 32, 1), (32, 64, 2), (64, 128, 2))


def trunk_name(depth: int, groups: int, width_per_group: int) -> str:
    """Returns the name in pretrain.backbones, which has the usual ones of these: "resnet50",
    "resnext50_32x4d", "wide_resnet50_2"."""
    if groups > 1:
        return f"resnext{depth}_{groups}x{width_per_group}d"
    if width_per_group != USUAL_WIDTH:
        return f"wide_resnet{depth}_{width_per_group / USUAL_WIDTH:g}"
    return f"resnet{depth}"


@dataclass(frozen=True, kw_only=True)
class BottleneckSpec:
    """Has the settings that all bottlenecks of a ResNet have in common."""

    norm: str
    stride_in_1x1: bool  # True: MSRA's bottlenecks; False: torchvision's
    groups: int  # groups of the 3x3 convolution; a ResNeXt has 32
    width_per_group: int  # channels of a group in res2; each later stage doubles them

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BottleneckSpec:
        """Reads the node MODEL.RESNETS; raises InputError for an unknown norm or no channels."""
        node = cfg.MODEL.RESNETS
        return cls(
            norm=node.NORM,
            stride_in_1x1=node.STRIDE_IN_1X1,
            groups=node.NUM_GROUPS,
            width_per_group=node.WIDTH_PER_GROUP,
        )

    def __post_init__(self) -> None:
        """Raises InputError for an unknown norm or no channels."""
        check_norm("MODEL.RESNETS.NORM", self.norm)
        for key, value in (("NUM_GROUPS", self.groups), ("WIDTH_PER_GROUP", self.width_per_group)):
            if value < 1:
                raise InputError(f"MODEL.RESNETS.{key} must be 1 or above, got {value}")


@dataclass(frozen=True, kw_only=True)
class ResNetSpec:
    """Has the keys of MODEL.RESNETS and MODEL.BACKBONE for a ResNet: the backbone of a C4 detector,
    or what an FPN is built on.
    """

    depth: int
    blocks: BottleneckSpec
    freeze_at: int  # see FREEZE_AT
    out_features: tuple[str, ...]  # the stages whose maps are returned
    res5_dilation: int  # 2: res5 dilates its 3x3 convolutions and keeps the size of its input

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ResNetSpec:
        """Reads the config; raises InputError for a ResNet that is not built here."""
        node = cfg.MODEL.RESNETS
        return cls(
            depth=node.DEPTH,
            blocks=BottleneckSpec.from_config(cfg),
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            # Nothing here takes the stem's map, which Detectron2's configs may name.
            out_features=tuple(name for name in node.OUT_FEATURES if name != "stem"),
            res5_dilation=node.RES5_DILATION,
        )

    def __post_init__(self) -> None:
        """Raises InputError for a ResNet that is not built here."""
        if self.depth not in BLOCKS_PER_STAGE:
            known = tuple(BLOCKS_PER_STAGE)
            raise InputError(f"MODEL.RESNETS.DEPTH {self.depth} is not supported; known: {known}")
        _check_freeze_at(self.freeze_at)
        if self.res5_dilation not in DILATIONS:
            raise InputError(
                f"MODEL.RESNETS.RES5_DILATION {self.res5_dilation} is not supported; known: "
                f"{', '.join(map(str, DILATIONS))}"
            )
        usual = (self.blocks.groups, self.blocks.width_per_group) == (1, USUAL_WIDTH)
        if self.depth < 50 and not (usual and self.res5_dilation == 1):
            raise InputError(
                f"MODEL.RESNETS.DEPTH {self.depth} has no bottleneck blocks: NUM_GROUPS must be 1, "
                f"WIDTH_PER_GROUP {USUAL_WIDTH} and RES5_DILATION 1; or set depth 50, 101 or 152"
            )

    @property
    def res2_channels(self) -> int:
        """Returns the channels of the map of res2; each later stage doubles them."""
        return 64 if self.depth < 50 else 256

    @property
    def trunk_name(self) -> str:
        """Returns its name in pretrain.backbones, e.g. "resnet50"."""
        return trunk_name(self.depth, self.blocks.groups, self.blocks.width_per_group)

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for maps that a C4 detector does not have; see `features`."""
        if self.depth < 50:
            raise InputError(
                f"MODEL.RESNETS.DEPTH {self.depth} has no C4 detector (its res5 head is made of "
                "bottleneck blocks); use an FPN config, or depth 50, 101 or 152"
            )
        if self.res5_dilation != 1:
            raise InputError(
                f"MODEL.RESNETS.RES5_DILATION {self.res5_dilation} needs MODEL.ROI_HEADS.NAME "
                "StandardROIHeads: the res5 of a C4 detector works on single boxes, and Detectron2 "
                "does not dilate it"
            )
        out = self.out_features
        check_known(OUT, out, STAGES[:-1])  # res5 is the second stage
        if "res4" not in out:
            raise InputError(f"{OUT} {list(out)} needs res4, from which Res5ROIHeads pool")
        check_known(RPN_IN, rpn, out)
        check_one(RPN_IN, rpn)
        check_equal(ROI_IN, roi, ("res4",))

    def build(self) -> ResNet:
        """Returns the stages up to the last of `out_features`, untrained.

        All four stages are made and the later ones dropped, as upstream does: the layers that
        follow then draw the same random weights for a seed.
        """
        stem = Stem(STEM_CHANNELS, norm=self.blocks.norm)
        stages: dict[str, nn.Sequential] = {}
        inputs = STEM_CHANNELS
        for number, name in enumerate(STAGES):
            stages[name] = make_stage(
                depth=self.depth,
                stage=number + 2,
                inputs=inputs,
                blocks=self.blocks,
                dilation=self.res5_dilation if name == "res5" else 1,
            )
            inputs = self.res2_channels * 2**number
        kept = {name: stage for name, stage in stages.items() if name <= max(self.out_features)}
        resnet = ResNet(stem, kept, out_features=self.out_features)
        resnet.freeze(self.freeze_at)
        return resnet


@dataclass(frozen=True, kw_only=True)
class C5ResNetSpec(ResNetSpec):
    """Describes a complete ResNet with a box head on one of its maps; with a dilated res5 this is
    the backbone of the detectors that Detectron2 calls DC5.
    """

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for maps that such a detector does not have; see `features`."""
        out = self.out_features
        check_known(OUT, out, STAGES)
        if "res5" not in out:
            raise InputError(
                f"{OUT} {list(out)} needs res5: only with MODEL.ROI_HEADS.NAME Res5ROIHeads the "
                "backbone ends before it"
            )
        for key, names in ((RPN_IN, rpn), (ROI_IN, roi)):
            check_known(key, names, out)
            check_one(key, names)


@dataclass(frozen=True, kw_only=True)
class TinyResNetSpec:
    """Describes the digits' backbone: a 3x3 stride-2 stem and BasicBlocks of 32, 64 and 128
    channels; the total stride is 8.
    """

    norm: str
    freeze_at: int  # see FREEZE_AT
    out_features: tuple[str, ...]

    trunk_name = "tiny_resnet"  # in pretrain.backbones

    @classmethod
    def from_config(cls, cfg: CfgNode) -> TinyResNetSpec:
        """Reads the config; raises InputError for an unknown value."""
        return cls(
            norm=cfg.MODEL.RESNETS.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
            out_features=tuple(cfg.MODEL.RESNETS.OUT_FEATURES),
        )

    def __post_init__(self) -> None:
        """Raises InputError for an unknown value."""
        check_norm("MODEL.RESNETS.NORM", self.norm)
        _check_freeze_at(self.freeze_at)

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for other maps than its only one."""
        for key, names in ((OUT, self.out_features), (RPN_IN, rpn), (ROI_IN, roi)):
            check_equal(key, names, ("res4",))

    def build(self) -> ResNet:
        """Returns the network, untrained."""
        stages = {
            name: nn.Sequential(BasicBlock(inputs, outputs, stride=stride, norm=self.norm))
            for name, (inputs, outputs, stride) in zip(STAGES, TINY_STAGES)
        }
        stem = Stem(TINY_STEM_CHANNELS, norm=self.norm, kernel_size=3, pool=False)
        resnet = ResNet(stem, stages, out_features=self.out_features)
        resnet.freeze(self.freeze_at)
        return resnet


def _check_freeze_at(stages: int) -> None:
    if stages not in FREEZE_AT:
        known = ", ".join(map(str, FREEZE_AT))
        raise InputError(f"MODEL.BACKBONE.FREEZE_AT {stages} is unknown; known: {known}")


class Stem(nn.Module):
    """Is a 7x7 stride-2 convolution with a 3x3 stride-2 max-pool, or the tiny 3x3 stride-2
    convolution.
    """

    def __init__(
        self, channels: int, *, norm: str, kernel_size: int = 7, pool: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, kernel_size, stride=2, norm=norm, relu=True)
        init_msra(self.conv1)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, channels, H / 4, W / 4) of (N, 3, H, W); without the pool H / 2, W / 2."""
        x = self.conv1(x)
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.pool else x


class Block(nn.Module):
    """Is the common part of both residual blocks: the shortcut (if channels change) and the sum."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__()
        self.outputs, self.stride = outputs, stride
        project = inputs != outputs
        self.shortcut = ConvNorm(inputs, outputs, 1, stride=stride, norm=norm) if project else None

    def add_shortcut(self, x: Tensor, out: Tensor) -> Tensor:
        """Returns relu(out + shortcut(x)), written into `out`."""
        out += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(out)

    def _init_convolutions(self, *layers: ConvNorm) -> None:
        for layer in (*layers, self.shortcut):
            if layer is not None:
                init_msra(layer)


class BasicBlock(Block):
    """Has two 3x3 convolutions, as in ResNet-18 and -34."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: str) -> None:
        super().__init__(inputs, outputs, stride=stride, norm=norm)
        self.conv1 = ConvNorm(inputs, outputs, 3, stride=stride, norm=norm, relu=True)
        self.conv2 = ConvNorm(outputs, outputs, 3, norm=norm)
        self._init_convolutions(self.conv1, self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, outputs, H / stride, W / stride) of (N, inputs, H, W)."""
        return self.add_shortcut(x, self.conv2(self.conv1(x)))


class Bottleneck(Block):
    """Has 1x1, 3x3 and 1x1 convolutions; the stride is in the 3x3, or in the first 1x1 (MSRA's)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        middle: int,
        *,
        stride: int,
        spec: BottleneckSpec,
        dilation: int,
    ) -> None:
        """Args: middle: channels of the 3x3 convolution, of all its groups."""
        norm = spec.norm
        super().__init__(inputs, outputs, stride=stride, norm=norm)
        # In the 1x1 as MSRA (He et al. 2015); in the 3x3, as torchvision, no pixel is skipped.
        first, second = (stride, 1) if spec.stride_in_1x1 else (1, stride)
        self.conv1 = ConvNorm(inputs, middle, 1, stride=first, norm=norm, relu=True)
        self.conv2 = ConvNorm(
            middle,
            middle,
            3,
            stride=second,
            groups=spec.groups,
            dilation=dilation,
            norm=norm,
            relu=True,
        )
        self.conv3 = ConvNorm(middle, outputs, 1, norm=norm)
        self._init_convolutions(self.conv1, self.conv2, self.conv3)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (N, outputs, H / stride, W / stride) of (N, inputs, H, W)."""
        return self.add_shortcut(x, self.conv3(self.conv2(self.conv1(x))))


def make_stage(
    *, depth: int, stage: int, inputs: int, blocks: BottleneckSpec, dilation: int = 1
) -> nn.Sequential:
    """Returns the blocks of res`stage` (2..5) of a ResNet of `depth`; the first block has the
    stride, which a dilated stage leaves out.
    """
    factor = 2 ** (stage - 2)
    outputs = (64 if depth < 50 else 256) * factor
    middle = blocks.groups * blocks.width_per_group * factor
    made: list[Block] = []
    for index in range(BLOCKS_PER_STAGE[depth][stage - 2]):
        # The stem has pooled before res2.
        stride = 2 if index == 0 and stage > 2 and dilation == 1 else 1
        if depth < 50:
            made.append(BasicBlock(inputs, outputs, stride=stride, norm=blocks.norm))
        else:
            options = {"stride": stride, "dilation": dilation}
            made.append(Bottleneck(inputs, outputs, middle, spec=blocks, **options))
        inputs = outputs
    return nn.Sequential(*made)


class ResNet(nn.Module):
    """Has a stem and consecutive stages, the children `stem`, `res2`, `res3`, ..."""

    size_divisibility = square_size = 0  # images of any size

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
            first, last = stage[0], stage[-1]
            assert isinstance(first, Block) and isinstance(last, Block)
            stride *= first.stride
            self.strides[name] = stride
            self.channels[name] = last.outputs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the map of each stage of images (N, 3, H, W).

        It is (N, channels[stage], H / strides[stage], W / strides[stage]).
        """
        x = self.stem(x)
        maps = {}
        for name in self.stages:
            x = maps[name] = getattr(self, name)(x)
        return {name: maps[name] for name in self.out_features}

    def freeze(self, freeze_at: int) -> None:
        """Fixes the stem (freeze_at >= 1) and the stages up to res`freeze_at`."""
        if freeze_at >= 1:
            freeze(self.stem)
        for name in self.stages:
            if freeze_at >= int(name[3:]):
                freeze(getattr(self, name))
