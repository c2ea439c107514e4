"""The feature pyramid network: maps of equal width, made from a ConvNet's last stages.

N batch. Input (N, 3, H, W) with H and W divisible by 32; from res2..res5 come p2..p6 of strides 4,
8, 16, 32, 64, from res3..res5 p3..p6; RetinaNet's p6 and p7 are convolutions of res5.
Specification: Lin et al. 2017 (figure 3) as in detectron2 `modeling/backbone/fpn.py`; for p6 and p7
Lin et al. 2017b (RetinaNet, footnote 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.architectures import is_timm
from transfer.detection.torchvision_engine.batchnorm import check_norm
from transfer.detection.torchvision_engine.feature_map_checks import (
    FPN_IN,
    OUT,
    STAGES,
    check_known,
    check_named,
    check_pyramid,
)
from transfer.detection.torchvision_engine.layers import ConvNorm, init_xavier
from transfer.detection.torchvision_engine.resnet import ResNetSpec
from transfer.detection.torchvision_engine.timm_convnet import TimmConvNetSpec

FUSE_TYPES = ("sum", "avg")


@dataclass(frozen=True, kw_only=True)
class FPNSpec:
    """Has the keys of the node MODEL.FPN on a ResNet, or on another of timm's ConvNets."""

    bottom_up: ResNetSpec | TimmConvNetSpec
    in_features: tuple[str, ...]  # consecutive stages up to res5, among those of `bottom_up`
    out_channels: int
    norm: str
    p6_and_p7: bool  # True: RetinaNet's two convolutions of res5 on top; False: p6 is p5 subsampled
    mean: bool  # True: a map and the coarser one are averaged; False: they are added

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FPNSpec:
        """Reads the config; raises InputError for maps that make no pyramid."""
        node = cfg.MODEL.FPN
        fuse = node.FUSE_TYPE
        if fuse not in FUSE_TYPES:
            known = ", ".join(FUSE_TYPES)
            raise InputError(f"MODEL.FPN.FUSE_TYPE {fuse!r} is unknown; known: {known}")
        return cls(
            bottom_up=(TimmConvNetSpec if is_timm(cfg) else ResNetSpec).from_config(cfg),
            in_features=tuple(node.IN_FEATURES),
            out_channels=node.OUT_CHANNELS,
            norm=node.NORM,
            p6_and_p7=cfg.MODEL.BACKBONE.NAME == "build_retinanet_resnet_fpn_backbone",
            mean=fuse == "avg",
        )

    def __post_init__(self) -> None:
        """Raises InputError for maps that make no pyramid: its top is made of p5, and each map is
        added to the next finer one."""
        check_norm("MODEL.FPN.NORM", self.norm)
        taken, out = self.in_features, self.bottom_up.out_features
        check_named(FPN_IN, taken)
        check_known(FPN_IN, taken, STAGES)
        if taken != STAGES[-len(taken) :]:
            raise InputError(f"{FPN_IN} {list(taken)} must be consecutive stages up to res5")
        check_known(OUT, out, STAGES)
        if isinstance(self.bottom_up, ResNetSpec) and self.bottom_up.res5_dilation != 1:
            raise InputError(
                f"MODEL.RESNETS.RES5_DILATION {self.bottom_up.res5_dilation} makes no pyramid: "
                "res5 would be as fine as res4; set MODEL.BACKBONE.NAME build_resnet_backbone"
            )
        missing = [name for name in taken if name not in out]
        if missing:
            raise InputError(f"{OUT} {list(out)} lacks {', '.join(missing)} of {FPN_IN}; add them")

    @property
    def trunk_name(self) -> str:
        """See `ResNetSpec` and `TimmConvNetSpec`."""
        return self.bottom_up.trunk_name

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for maps that the pyramid does not have; see `features`."""
        check_pyramid(self.maps, rpn, roi)

    @property
    def maps(self) -> tuple[str, ...]:
        """Returns the names of the pyramid's maps, the finest first."""
        levels = [int(name[3:]) for name in self.in_features]
        top = [6, 7] if self.p6_and_p7 else [6]
        return tuple(f"p{level}" for level in (*levels, *top))

    def build(self) -> FPN:
        """Returns the pyramid with its ResNet, untrained."""
        return FPN(self)


class FPN(nn.Module):
    """Has the children `fpn_lateral2`, `fpn_output2`, ..., `bottom_up`."""

    # The stride of p5: each map then has exactly twice the side of the one added to it.
    size_divisibility = 32
    square_size = 0

    def __init__(self, spec: FPNSpec) -> None:
        bottom_up = spec.bottom_up.build()  # first, as upstream: a seed draws the same weights
        out_channels, norm = spec.out_channels, spec.norm
        top: TopConvolutions | None = None
        if spec.p6_and_p7:
            top = TopConvolutions(bottom_up.channels["res5"], out_channels)
        super().__init__()
        bias = norm == ""  # a norm that follows would cancel it
        self.levels = [int(name[3:]) for name in spec.in_features]
        for level in self.levels:
            inputs = bottom_up.channels[f"res{level}"]
            lateral = ConvNorm(inputs, out_channels, 1, norm=norm, bias=bias)
            output = ConvNorm(out_channels, out_channels, 3, norm=norm, bias=bias)
            init_xavier(lateral)
            init_xavier(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.bottom_up = bottom_up
        self.top_block = top
        self.mean = spec.mean
        self.out_features = spec.maps
        self.strides = {name: 2 ** int(name[1:]) for name in self.out_features}
        self.channels = {name: out_channels for name in self.out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns maps "p2" (N, out_channels, H / 4, W / 4) to "p6" of images (N, 3, H, W)."""
        maps = self.bottom_up(x)
        outputs: dict[str, Tensor] = {}
        inner: Tensor | None = None
        for level in reversed(self.levels):
            lateral = getattr(self, f"fpn_lateral{level}")(maps[f"res{level}"])
            if inner is None:
                inner = lateral
            else:
                inner = lateral + F.interpolate(inner, scale_factor=2.0, mode="nearest")
                inner = inner / 2 if self.mean else inner
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(inner)
        if self.top_block is not None:
            outputs["p6"], outputs["p7"] = self.top_block(maps["res5"])
        else:
            # A stride-2 subsampling, written as upstream's max-pool of window 1.
            outputs["p6"] = F.max_pool2d(outputs["p5"], kernel_size=1, stride=2, padding=0)
        return {name: outputs[name] for name in self.out_features}


class TopConvolutions(nn.Module):
    """Computes RetinaNet's `p6`, a 3x3 stride-2 convolution of res5, and `p7`, one of p6 after a
    ReLU.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(inputs, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        init_xavier(self.p6)
        init_xavier(self.p7)

    def forward(self, res5: Tensor) -> tuple[Tensor, Tensor]:
        """Returns p6 (N, channels, H / 2, W / 2) and p7, with half of p6's sides."""
        p6 = self.p6(res5)
        return p6, self.p7(F.relu(p6))
