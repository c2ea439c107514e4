"""The projector's layers, widths and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.heads import build_projector
from pretrain.common.errors import InputError


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_and_widths(layers: int) -> None:
    head = build_projector(12, hidden_dim=7, out_dim=5, layers=layers)
    linear = [module for module in head if isinstance(module, nn.Linear)]
    assert [m.in_features for m in linear] == [12] + [7] * (layers - 1)
    assert linear[-1].out_features == 5
    assert all(m.bias is None for m in linear)
    assert sum(isinstance(m, nn.BatchNorm1d) for m in head) == layers
    assert sum(isinstance(m, nn.ReLU) for m in head) == layers - 1


def test_last_norm_scales_but_does_not_shift() -> None:
    head = build_projector(6, hidden_dim=4, out_dim=3)
    assert head[-1].weight.requires_grad and not head[-1].bias.requires_grad
    out = head(torch.randn(16, 6, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_no_layers_is_refused() -> None:
    with pytest.raises(InputError, match="at least one layer"):
        build_projector(6, layers=0)
