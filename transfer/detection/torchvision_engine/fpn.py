"""Feature pyramid on a ResNet's last stages: images in, maps of equal width out.

N batch. Input (N, 3, H, W) with H and W divisible by 32; from res2..res5 come p2..p6 of strides 4,
8, 16, 32, 64, from res3..res5 p3..p6.
Specification: Lin et al. 2017 as in detectron2 `modeling/backbone/fpn.py` (sum, max-pooled p6).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from transfer.detection.torchvision_engine.layers import ConvNorm, init_xavier
from transfer.detection.torchvision_engine.resnet import ResNet


class FPN(nn.Module):
    """Children `fpn_lateral2`, `fpn_output2`, ..., `bottom_up`."""

    size_divisibility = 32

    def __init__(
        self,
        bottom_up: ResNet,
        *,
        out_channels: int,
        norm: str,
        in_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        """Args: in_features: consecutive stages up to res5, among those that `bottom_up` gives."""
        super().__init__()
        bias = norm == ""
        self.levels = [int(name[3:]) for name in in_features]
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
