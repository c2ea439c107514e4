"""Schedules against closed forms, parameter groups, and settings that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.classification.training.optimizer_and_schedule import (
    Recipe,
    make_schedule,
    parameter_groups,
)


def test_cosine_by_step_and_by_epoch() -> None:
    by_step = make_schedule(Recipe(10, 512), 0.1, 7)
    by_epoch = make_schedule(Recipe(10, 512, per_epoch=True), 0.1, 7)
    for step in range(70):
        assert by_step(step) == pytest.approx(0.1 * (1 + math.cos(math.pi * step / 70)))
        expected = 0.1 * (1 + math.cos(math.pi * (step // 7) / 10))
        assert by_epoch(step) == pytest.approx(expected)


def test_by_epoch_is_torchs_cosine() -> None:
    """torch.optim.lr_scheduler.CosineAnnealingLR, as VICReg and Barlow Twins step it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    ours = make_schedule(Recipe(12, 256, per_epoch=True), 0.3, 5)
    for epoch in range(12):
        assert ours(epoch * 5) == ours(epoch * 5 + 4) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    "epochs, stones, gamma", [(100, (60, 80), 0.1), (20, (12, 16), 0.2), (28, (8, 16, 24), 0.1)]
)
def test_milestones_are_torchs(epochs: int, stones: tuple, gamma: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(stones), gamma)
    recipe = Recipe(epochs, 256, schedule="step", milestones=stones, gamma=gamma, per_epoch=True)
    ours = make_schedule(recipe, 1.0, 11)
    for epoch in range(epochs):
        first, last = ours(epoch * 11), ours(epoch * 11 + 10)
        assert first == last == pytest.approx(theirs.get_last_lr()[0]), epoch
        optimizer.step()
        theirs.step()


def test_warmup() -> None:
    ours = make_schedule(Recipe(9, 256, warmup_epochs=2), 1.0, 5)
    assert [ours(step) for step in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert ours(10) == pytest.approx(1.0) and ours(44) < 0.01


@pytest.mark.parametrize(
    "optimizer, lars, decayed, adapted",
    [
        ("sgd", "matrices", {"conv", "weight", "bias"}, set()),
        ("lars", "matrices", {"conv", "weight"}, {"conv", "weight"}),
        ("lars", "all", {"conv", "weight", "bias", "norm"}, {"conv", "weight", "bias", "norm"}),
        ("lars", "backbone", {"conv"}, {"conv"}),
    ],
)
def test_groups(
    optimizer: str, lars: str, decayed: set, adapted: set, make: Callable[..., Any]
) -> None:
    recipe = Recipe(1, 8, optimizer=optimizer, lars=lars, weight_decay=0.5, backbone_lr_ratio=0.25)
    model = make(recipe, 1.0, frozen=False)[0].model
    kinds = {}
    for name, p in model.named_parameters():
        kind = name.rpartition(".")[2] if name.startswith("heads") else "conv"
        kinds[id(p)] = "norm" if kind == "conv" and p.ndim == 1 else kind
    seen = []
    for group in parameter_groups(recipe, model):
        for p in group["params"]:
            kind = kinds[id(p)]
            assert group["weight_decay"] == (0.5 if kind in decayed else 0.0), kind
            assert optimizer == "sgd" or group["adapt"] == (kind in adapted), kind
            assert group["lr_ratio"] == (1.0 if kind in ("weight", "bias") else 0.25)
            seen.append(id(p))
    assert sorted(seen) == sorted(kinds)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 0}, "SOLVER.EPOCHS"),
        ({"optimizer": "adan"}, "unknown optimizer 'adan' in TRAIN.OPTIMIZER"),
        ({"lars": "alll"}, "did you mean 'all'"),
        ({"schedule": "linear"}, "TRAIN.SCHEDULE"),
        ({"backbone_lr_ratio": 0.0}, "TRAIN.BACKBONE_LR_RATIO 0.0"),
        ({"warmup_epochs": 5}, "TRAIN.WARMUP_EPOCHS 5"),
        (
            {"schedule": "step", "milestones": (3, 5)},
            "TRAIN.MILESTONES .3, 5. .*EPOCHS 5; change either",
        ),
        ({"schedule": "step"}, "TRAIN.MILESTONES"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe(**{"epochs": 5, "batch_size": 8, **settings})
