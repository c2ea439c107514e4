"""Parameter groups against the model, and an optimizer's steps against the textbook's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.optim.schedules import set_rates
from transfer.training.optimizer import build_optimizer, param_groups, vit_layer_factor


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="TRANSFER.OPTIMIZER"):
        build_optimizer([], name="Adam", base_lr=1.0, momentum=0.9, nesterov=False)


def test_norms_have_no_decay_and_frozen_ones_no_group() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.Linear(2, 2)
    )
    model[3].weight.requires_grad = False
    groups = param_groups(model, weight_decay=1e-4, weight_decay_norm=0.0, base_lr=0.1)
    by_decay = {group["weight_decay"]: group["params"] for group in groups}
    assert set(by_decay) == {1e-4, 0.0}
    assert [id(p) for p in by_decay[1e-4]] == [
        id(p) for p in (model[0].weight, model[0].bias, model[3].bias)
    ]
    assert len(by_decay[0.0]) == 4


def test_bias_factors() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    groups = param_groups(
        model,
        weight_decay=1e-4,
        weight_decay_norm=0.0,
        weight_decay_bias=0.5,
        base_lr=0.1,
        bias_lr_factor=2.0,
    )
    found = {(g["weight_decay"], g["lr"]): len(g["params"]) for g in groups}
    assert found == {(1e-4, 0.1): 1, (0.5, 0.2): 2, (0.0, 0.1): 1}


def test_sgd_steps_are_the_textbook_ones() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    groups = [{"params": [weight], "weight_decay": 0.1, "lr": 0.5}]
    optimizer = build_optimizer(groups, name="SGD", base_lr=0.5, momentum=0.9, nesterov=False)
    expected, velocity = torch.tensor([1.0, -2.0]), torch.zeros(2)
    for factor in (1.0, 0.5, 0.1):
        set_rates(optimizer, factor)
        weight.grad = torch.tensor([0.3, 0.4])
        optimizer.step()
        velocity = 0.9 * velocity + weight.grad + 0.1 * expected
        expected = expected - 0.5 * factor * velocity
        torch.testing.assert_close(weight.data, expected)


def test_layers_of_a_vit() -> None:
    """ViTDet's rule for 12 blocks: the pyramid and the heads at 1, block k at 0.7 ** (12 - k)."""
    expected = {
        "backbone.net.pos_embed": 0.7**13,
        "backbone.net.patch_embed.proj.weight": 0.7**13,
        "backbone.net.blocks.0.norm1.bias": 0.7**12,
        "backbone.net.blocks.1.attn.rel_pos_h": 0.7**11,
        "backbone.net.blocks.11.mlp.fc2.weight": 0.7,
        "backbone.simfp_2.0.weight": 1.0,
        "roi_heads.box_head.fc1.weight": 1.0,
        "roi_heads.blocks.3.weight": 1.0,
    }
    for name, factor in expected.items():
        assert vit_layer_factor(name, decay=0.7, depth=12) == pytest.approx(factor), name
        assert vit_layer_factor(name, decay=1.0, depth=12) == 1.0


def test_groups_of_a_vit() -> None:
    vit = nn.Module()
    vit.pos_embed = nn.Parameter(torch.zeros(1))
    vit.blocks = nn.ModuleList([nn.LayerNorm(2), nn.Linear(2, 2)])
    model = nn.ModuleDict({"backbone": vit, "head": nn.Linear(2, 2)})
    groups = param_groups(
        model,
        weight_decay=0.1,
        weight_decay_norm=0.0,
        base_lr=1.0,
        weight_decay_pos_embed=0.0,
        layer_factor=lambda name: vit_layer_factor(name, decay=0.5, depth=2),
    )
    found = {
        id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }
    expected = {
        "backbone.pos_embed": (0.125, 0.0),
        "backbone.blocks.0.weight": (0.25, 0.0),
        "backbone.blocks.0.bias": (0.25, 0.0),
        "backbone.blocks.1.weight": (0.5, 0.1),
        "backbone.blocks.1.bias": (0.5, 0.1),
        "head.weight": (1.0, 0.1),
        "head.bias": (1.0, 0.1),
    }
    assert {name: found[id(p)] for name, p in model.named_parameters()} == expected
    assert len(groups) == 4, "equal ones share a group"
