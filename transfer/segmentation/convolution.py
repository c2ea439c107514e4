"""The convolution that the heads are made of: with batch norm, ReLU and mmseg's initialisation."""

from __future__ import annotations

from torch import nn


def convolution(inputs: int, outputs: int, side: int = 3, dilation: int = 1) -> nn.Sequential:
    """Maps (N, inputs, h, w) to (N, outputs, h, w): convolution without bias, batch norm, ReLU.

    The weights start as kaiming_normal with fan_out. `side` is the kernel's, 1 or 3.
    """
    padding = dilation * (side // 2)
    conv = nn.Conv2d(inputs, outputs, side, padding=padding, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
