"""The feature pyramid network: maps of equal width, made from a ConvNet's last stages.

N batch. Input (N, 3, H, W) with H and W divisible by 32; from res2..res5 come p2..p6 of strides 4,
8, 16, 32, 64, from res3..res5 p3..p6.
Specification: Lin et al. 2017 as in detectron2 `modeling/backbone/fpn.py` (sum, max-pooled p6).
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


@dataclass(frozen=True, kw_only=True)
class FPNSpec:
    """The node MODEL.FPN on a ResNet, or on another of timm's ConvNets."""

    bottom_up: ResNetSpec | TimmConvNetSpec
    in_features: tuple[str, ...]  # consecutive stages up to res5, among those of `bottom_up`
    out_channels: int
    norm: str

    @classmethod
    def from_config(cls, cfg: CfgNode) -> FPNSpec:
        """Reads the config; raises InputError for maps that make no pyramid."""
        node = cfg.MODEL.FPN
        kind = TimmConvNetSpec if is_timm(cfg) else ResNetSpec
        return cls(
            bottom_up=kind.from_config(cfg),
            in_features=tuple(node.IN_FEATURES),
            out_channels=node.OUT_CHANNELS,
            norm=node.NORM,
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
        missing = [name for name in taken if name not in out]
        if missing:
            raise InputError(f"{OUT} {list(out)} lacks {', '.join(missing)} of {FPN_IN}")

    @property
    def trunk_name(self) -> str:
        """See `ResNetSpec` and `TimmConvNetSpec`."""
        return self.bottom_up.trunk_name

    def check_maps(self, rpn: Sequence[str], roi: Sequence[str]) -> None:
        """Raises InputError for maps that the pyramid has not; see `features`."""
        maps = tuple(f"p{name[3:]}" for name in (*self.in_features, "res6"))
        check_pyramid(maps, rpn, roi)

    def build(self) -> FPN:
        """The pyramid with its ResNet, untrained."""
        return FPN(self)


class FPN(nn.Module):
    """Children `fpn_lateral2`, `fpn_output2`, ..., `bottom_up`."""

    # The stride of p5: each map then has exactly twice the side of the one added to it.
    size_divisibility = 32
    square_size = 0

    def __init__(self, spec: FPNSpec) -> None:
        bottom_up = spec.bottom_up.build()  # first, as upstream: a seed draws the same weights
        super().__init__()
        out_channels, norm = spec.out_channels, spec.norm
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
        self.out_features = tuple(f"p{level}" for level in [*self.levels, self.levels[-1] + 1])
        self.strides = {name: 2 ** int(name[1:]) for name in self.out_features}
        self.channels = {name: out_channels for name in self.out_features}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> {"p2": (N, out_channels, H / 4, W / 4), ..., "p6": ...}."""
        maps = self.bottom_up(x)
        outputs: dict[str, Tensor] = {}
        inner: Tensor | None = None
        for level in reversed(self.levels):
            lateral = getattr(self, f"fpn_lateral{level}")(maps[f"res{level}"])
            if inner is None:
                inner = lateral
            else:
                inner = lateral + F.interpolate(inner, scale_factor=2.0, mode="nearest")
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(inner)
        coarsest = self.levels[-1]
        # A stride-2 subsampling, written as upstream's max-pool of window 1.
        pooled = F.max_pool2d(outputs[f"p{coarsest}"], kernel_size=1, stride=2, padding=0)
        outputs[f"p{coarsest + 1}"] = pooled
        return {name: outputs[name] for name in self.out_features}
