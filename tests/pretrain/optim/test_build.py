"""Parameter groups and optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import build_backbone
from pretrain.common.errors import InputError
from pretrain.optim.build import OPTIMIZERS, build_optimizer, param_groups


def test_norm_and_bias_are_excluded_and_nothing_is_lost() -> None:
    model = nn.Sequential(build_backbone("tiny_resnet"), build_projector(128), nn.Linear(128, 3))
    weights, rest = param_groups(model, 0.1)
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    assert weights["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0 and not rest["adapt"]
    assert all(isinstance(owners[id(p)], (nn.Conv2d, nn.Linear)) for p in weights["params"])
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    last_bias = model[2].bias
    assert all(isinstance(owners[id(p)], norms) or p is last_bias for p in rest["params"])
    trainable = sum(p.requires_grad for p in model.parameters())
    assert len(weights["params"]) + len(rest["params"]) == trainable
    assert len(param_groups(model, 0.1, exclude_norm_and_bias=False)) == 1


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_optimizer_lowers_a_quadratic(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(16, 3)
    optimizer = build_optimizer(model, name, lr=0.05, weight_decay=0.01)
    before = model(x).square().mean()
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert model(x).square().mean() < before


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="did you mean 'lars'"):
        build_optimizer(nn.Linear(1, 1), "larz", lr=0.1, weight_decay=0.0)
