"""Parameter groups and optimizers by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.optim.build import OPTIMIZERS, GroupRules, build_optimizer, param_groups


def test_norm_and_bias_are_excluded_and_nothing_is_lost() -> None:
    model = nn.Sequential(build_resnet("tiny_resnet"), build_projector(128), nn.Linear(128, 3))
    weights, rest = param_groups(model, 0.1)
    owners = {id(p): m for m in model.modules() for p in m.parameters(recurse=False)}
    assert weights["weight_decay"] == 0.1 and rest["weight_decay"] == 0.0 and not rest["adapt"]
    assert weights["decays"] and not rest["decays"]
    assert all(isinstance(owners[id(p)], (nn.Conv2d, nn.Linear)) for p in weights["params"])
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    last_bias = model[2].bias
    assert all(isinstance(owners[id(p)], norms) or p is last_bias for p in rest["params"])
    trainable = sum(p.requires_grad for p in model.parameters())
    assert len(weights["params"]) + len(rest["params"]) == trainable


def test_without_the_exclusion_all_decay() -> None:
    groups = param_groups(nn.Linear(3, 2), 0.1, GroupRules(exclude_norm_and_bias=False))
    assert all(g["weight_decay"] == 0.1 and g["adapt"] and g["decays"] for g in groups)
    assert sum(len(group["params"]) for group in groups) == 2


def test_rules_single_out_parameters() -> None:
    """A constant rate, a rate for biases, and a matrix without decay and clipping."""
    body, predictor, prototypes = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 5, bias=False)
    model = nn.ModuleList([body, predictor, prototypes])
    rules = GroupRules(
        bias_lr_ratio=0.024,
        constant=tuple(predictor.parameters()),
        without_decay=(prototypes.weight,),
    )
    groups = param_groups(model, 0.1, rules)
    found = {id(p): group for group in groups for p in group["params"]}
    assert len(found) == 5, "each parameter once"

    def facts(parameter: nn.Parameter) -> tuple:
        keys = ("weight_decay", "adapt", "lr_ratio", "constant_lr", "clip")
        return tuple(found[id(parameter)][key] for key in keys)

    assert facts(body.weight) == (0.1, True, 1.0, False, True)
    assert facts(body.bias) == (0.0, False, 0.024, False, True)
    assert facts(predictor.weight) == (0.1, True, 1.0, True, True)
    assert facts(predictor.bias) == (0.0, False, 0.024, True, True)
    assert facts(prototypes.weight) == (0.0, False, 1.0, False, False)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_optimizer_lowers_a_quadratic(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.randn(16, 3)
    optimizer = build_optimizer(param_groups(model, 0.01), name, lr=0.05)
    before = model(x).square().mean()
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert model(x).square().mean() < before


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="did you mean 'lars'"):
        build_optimizer([], "larz", lr=0.1)
