"""Momentum copies: the schedules against the authors' formulas, the update against a loop and
lightly's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.methods.target import Momentum, make_target, update_target


def network() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False))
    net[1].bias.requires_grad_(False)
    return net


@pytest.mark.parametrize("step", [0, 1, 37, 99])
def test_schedules(step: int) -> None:
    assert Momentum(0.999).at(step, 100) == 0.999
    # BYOL byol/utils/schedules.py and MoCo v3 main_moco.py: a half cosine to 1.
    decay = (1 + math.cos(math.pi * step / 100)) / 2
    assert Momentum(0.99, "cosine").at(step, 100) == pytest.approx(1 - decay * (1 - 0.99))
    # MSN src/msn_train.py: equal increments, that would reach 1 after 1.25 runs.
    increment = (1.0 - 0.996) / (100 * 1.25)
    assert Momentum(0.996, "linear", 1.25).at(step, 100) == pytest.approx(0.996 + increment * step)


def test_schedules_end_at_one() -> None:
    for schedule in ("cosine", "linear"):
        values = [Momentum(0.9, schedule).at(step, 50) for step in range(51)]
        assert values[0] == pytest.approx(0.9) and values[-1] == pytest.approx(1)
        assert values == sorted(values)
        assert Momentum(0.9, schedule).at(70, 50) == pytest.approx(1), "and stay there"
    assert Momentum(0.9, "linear", 1.25).at(50, 50) == pytest.approx(0.9 + 0.1 / 1.25)


@pytest.mark.parametrize(
    "base, schedule, match",
    [
        (1.5, "constant", "METHOD.MOMENTUM 1.5 must be in 0 to 1"),
        (-0.1, "constant", "METHOD.MOMENTUM -0.1"),
        (0.9, "cosin", "METHOD.MOMENTUM_SCHEDULE 'cosin' is unknown; known: constant, cosine"),
    ],
)
def test_bad_settings_are_refused(base: float, schedule: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        Momentum(base, schedule)


def test_a_target_starts_equal_and_apart() -> None:
    online = network()
    online(torch.randn(8, 4))
    target = make_target(online)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), online.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), online.buffers()))
    assert not any(p.requires_grad for p in target.parameters())
    assert online[0].weight.requires_grad and not online[1].bias.requires_grad
    with torch.no_grad():
        online[0].weight.add_(1)
    assert not torch.equal(target[0].weight, online[0].weight)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_update_is_an_average_of_parameters(momentum: float) -> None:
    online, target = network(), make_target(network())
    online(torch.randn(8, 4))  # moves its running statistics
    before = copy.deepcopy(target)
    update_target(target, online, momentum)
    for new, old, source in zip(target.parameters(), before.parameters(), online.parameters()):
        expected = [
            momentum * a + (1 - momentum) * b
            for a, b in zip(old.flatten().tolist(), source.flatten().tolist())
        ]
        assert new.flatten().tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert new.grad_fn is None and not new.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), before.buffers()))
    assert not torch.equal(target[1].running_mean, online[1].running_mean)


def test_the_update_is_lightlys() -> None:
    utils = pytest.importorskip(
        "lightly.models.utils", reason="lightly (extra `test`) is not installed"
    )
    online, target = network(), make_target(network())
    theirs = copy.deepcopy(target)
    update_target(target, online, 0.7)
    utils.update_momentum(online.requires_grad_(False), theirs, 0.7)
    for ours, expected in zip(target.parameters(), theirs.parameters()):
        assert torch.equal(ours, expected)
