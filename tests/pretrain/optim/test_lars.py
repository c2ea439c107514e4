"""LARS against one tensor at a time in plain numpy-like steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.optim.lars import LARS


def slow_lars(
    w: torch.Tensor, grads: list, lrs: list, wd: float, adapt: bool, holds_lr: bool
) -> torch.Tensor:
    """One tensor's steps written out: the classic momentum of google-research/simclr
    lars_optimizer.py, or that of barlowtwins main.py, whose rate comes after the momentum."""
    w, v = w.clone(), torch.zeros_like(w)
    for g, lr in zip(grads, lrs):
        g = g + wd * w
        w_norm, g_norm = w.pow(2).sum().sqrt().item(), g.pow(2).sum().sqrt().item()
        ratio = 0.001 * w_norm / g_norm if adapt and w_norm > 0 and g_norm > 0 else 1.0
        v = 0.9 * v + (lr if holds_lr else 1.0) * ratio * g
        w = w - (1.0 if holds_lr else lr) * v
    return w


@pytest.mark.parametrize("holds_lr", [True, False])
@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("adapt, wd", [(True, 0.01), (True, 0.0), (False, 0.0)])
def test_steps_match_the_reference(start: str, adapt: bool, wd: float, holds_lr: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(4, 3, generator=generator), torch.randn(5, 2, generator=generator)]
    if start == "zero":
        weights[0].zero_()
    grads = [[torch.randn(w.shape, generator=generator) for _ in range(3)] for w in weights]
    lrs = [4.8, 2.4, 0.1]
    params = [nn.Parameter(w.clone()) for w in weights]
    groups = [{"params": params, "adapt": adapt, "weight_decay": wd}]
    optimizer = LARS(groups, lr=0.0, momentum_holds_lr=holds_lr)
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        for param, sequence in zip(params, grads):
            param.grad = sequence[step].clone()
        optimizer.step()
    for param, weight, sequence in zip(params, weights, grads):
        expected = slow_lars(weight, sequence, lrs, wd, adapt, holds_lr)
        torch.testing.assert_close(param.data, expected)


def test_matches_lightly() -> None:
    """lightly's LARS has its rate after the momentum. A vanishing decay, since it adds up the two
    norms (as timm's does), and does not adapt at all without one."""
    lightly = pytest.importorskip("lightly.utils.lars", reason="lightly is not installed")
    start = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one = LARS([ours], lr=0.7, weight_decay=1e-12, momentum_holds_lr=False)
    two = lightly.LARS([theirs], lr=0.7, momentum=0.9, weight_decay=1e-12)
    for step in range(4):
        for param, optimizer in ((ours, one), (theirs, two)):
            param.grad = (param.data * (step + 1)).sin()
            optimizer.step()
    torch.testing.assert_close(ours.data, theirs.data, rtol=1e-6, atol=1e-7)


def test_zero_gradient_moves_nothing_and_is_finite() -> None:
    param = nn.Parameter(torch.ones(3, 3))
    optimizer = LARS([param], lr=1.0)
    param.grad = torch.zeros(3, 3)
    optimizer.step()
    assert torch.equal(param.data, torch.ones(3, 3))


def test_parameters_without_gradient_are_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = LARS([used, unused], lr=1.0, weight_decay=0.1)
    used.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(unused.data, torch.ones(2, 2)) and not torch.equal(used, unused)


def test_state_survives_a_round_trip() -> None:
    def run(steps: int, optimizer: LARS, param: nn.Parameter) -> None:
        for _ in range(steps):
            param.grad = param.data.sin()
            optimizer.step()

    start = torch.linspace(0.1, 2, 6).view(2, 3)
    straight = nn.Parameter(start.clone())
    run(4, LARS([straight], lr=3.0), straight)
    first = nn.Parameter(start.clone())
    one = LARS([first], lr=3.0)
    run(2, one, first)
    second = nn.Parameter(first.data.clone())
    two = LARS([second], lr=1.0)
    two.load_state_dict(one.state_dict())
    run(2, two, second)
    assert torch.equal(straight.data, second.data)


def test_negative_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        LARS([nn.Parameter(torch.ones(1))], lr=1.0, momentum=-1.0)
