"""Warmup and cosine against torch's schedulers, and the linear scaling rule."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from pretrain.common.errors import InputError
from pretrain.optim.schedules import (
    by_epoch,
    check_milestones,
    half_cosine,
    scaled_lr,
    set_rates,
    warmup_cosine,
    warmup_steps_down,
)


@pytest.mark.parametrize("final_fraction", [0.0, 0.1])
def test_matches_torch(final_fraction: float) -> None:
    warmup, total, base = 4, 20, 4.8
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    linear = LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    cosine = CosineAnnealingLR(optimizer, total - warmup, base * final_fraction)
    scheduler = SequentialLR(optimizer, [linear, cosine], [warmup])
    for step in range(total):
        ours = warmup_cosine(
            step,
            base_lr=base,
            total_steps=total,
            warmup_steps=warmup,
            final_fraction=final_fraction,
        )
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6, abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_moco_v1_steps_down_at_120_and_160_of_200_epochs() -> None:
    rates = [
        warmup_steps_down(step, base_lr=0.03, milestones=(0.6, 0.8), total_steps=200 * 7)
        for step in range(200 * 7)
    ]
    expected = [0.03] * 120 * 7 + [0.003] * 40 * 7 + [0.0003] * 40 * 7
    assert rates == pytest.approx(expected)


def test_supervised_steps_down_at_30_and_60_of_90_epochs() -> None:
    shares = (1 / 3, 2 / 3)
    rates = [
        warmup_steps_down(epoch * 5004, base_lr=0.1, milestones=shares, total_steps=90 * 5004)
        for epoch in range(90)
    ]
    assert rates == pytest.approx([0.1] * 30 + [0.01] * 30 + [0.001] * 30)


def test_a_rate_by_epoch_is_the_rate_of_its_first_step() -> None:
    """MoCo v2 and SimSiam: lr * 0.5 * (1 + cos(pi * epoch / epochs)), epoch a whole number."""
    steps, epochs = 5, 8
    schedule = by_epoch(
        lambda step: warmup_cosine(step, base_lr=0.03, total_steps=steps * epochs), steps
    )
    for step in range(steps * epochs):
        expected = 0.03 * 0.5 * (1 + math.cos(math.pi * (step // steps) / epochs))
        assert schedule(step) == pytest.approx(expected)


def test_warmup_starts_where_it_is_told() -> None:
    """MSN: from 2e-4 to 1e-3, its counter being one step ahead of ours."""
    for step in range(15):
        rate = warmup_cosine(step, base_lr=1e-3, total_steps=100, warmup_steps=15, warmup_start=0.2)
        assert rate == pytest.approx(2e-4 + (step + 1) / 15 * (1e-3 - 2e-4))


def test_half_cosine_runs_from_start_to_end() -> None:
    """MSN's weight decay 0.04 to 0.4."""
    assert half_cosine(0.0, 0.04, 0.4) == pytest.approx(0.04)
    assert half_cosine(0.5, 0.04, 0.4) == pytest.approx(0.22)
    assert half_cosine(1.0, 0.04, 0.4) == half_cosine(1.5, 0.04, 0.4) == pytest.approx(0.4)


@pytest.mark.parametrize("milestones", [(), (0.8, 0.6), (0.0, 0.5), (0.5, 1.0)])
def test_milestones_are_rising_shares(milestones: tuple) -> None:
    with pytest.raises(InputError, match="SOLVER.MILESTONES"):
        check_milestones(milestones)


def test_warmup_must_fit() -> None:
    with pytest.raises(ValueError, match="warmup of 10 steps"):
        warmup_cosine(0, base_lr=1.0, total_steps=10, warmup_steps=10)


def test_linear_scaling() -> None:
    assert scaled_lr(0.3, 4096) == pytest.approx(4.8)


def test_rates_of_groups() -> None:
    """The schedule's value times a group's own ratio; a missing ratio is not assumed to be 1."""
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], **own}
        for own in ({"lr_ratio": 1.0}, {"lr_ratio": 0.25}, {"lr_ratio": 0.5, "constant_lr": True})
    ]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    for value in (2.0, 0.4):
        set_rates(optimizer, value, constant=3.0)
        assert [group["lr"] for group in optimizer.param_groups] == [value, 0.25 * value, 1.5]
    del optimizer.param_groups[1]["lr_ratio"]
    with pytest.raises(KeyError, match="lr_ratio"):
        set_rates(optimizer, 1.0)
