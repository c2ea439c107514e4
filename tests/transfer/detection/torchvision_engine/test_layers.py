"""ConvNorm is its parts in order; initialisations have the stated spread."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from transfer.detection.torchvision_engine.layers import (
    ConvNorm,
    init_msra,
    init_normal,
    init_xavier,
)


def test_conv_norm_relu() -> None:
    layer = ConvNorm(3, 4, 3, stride=2, norm="BN", relu=True).eval()
    nn.init.normal_(layer.norm.bias)
    x = torch.randn(2, 3, 9, 8)
    expected = F.relu(layer.norm(F.conv2d(x, layer.weight, None, 2, 1)))
    assert torch.equal(layer(x), expected)
    assert layer(x).shape == (2, 4, 5, 4)
    assert set(layer.state_dict()) == {"weight", *(f"norm.{k}" for k in layer.norm.state_dict())}


def test_initialisations() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3)
    init_msra(layer)
    assert math.isclose(layer.weight.std().item(), math.sqrt(2 / (128 * 9)), rel_tol=0.02)
    assert not layer.bias.any()
    init_xavier(layer)
    bound = math.sqrt(3 / (64 * 9))
    assert layer.weight.abs().max().item() <= bound
    assert math.isclose(layer.weight.std().item(), bound / math.sqrt(3), rel_tol=0.02)
    init_normal(layer, 0.01)
    assert math.isclose(layer.weight.std().item(), 0.01, rel_tol=0.02)
