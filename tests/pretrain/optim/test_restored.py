"""An optimizer's state from checkpoints of this and of earlier versions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.optim.restored import restore_optimizer
from pretrain.optim.schedules import set_rates


def trained(momentum: float = 0.9) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [
        {"params": [model.weight], "lr": 0.1, "lr_ratio": 0.1},
        {"params": [model.bias], "lr": 0.2, "lr_ratio": 0.2},
    ]
    return model, torch.optim.SGD(groups, lr=0.1, momentum=momentum)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, base: float) -> None:
    set_rates(optimizer, base)
    optimizer.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()


def test_a_checkpoint_without_a_newer_setting_goes_on_as_one_with_it() -> None:
    """Checkpoints of detectors had no `lr_ratio` once."""
    model, optimizer = trained()
    step(model, optimizer, 1.0)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    step(model, optimizer, 0.5)
    for group in state["param_groups"]:
        del group["lr_ratio"]
    again, its_optimizer = trained()
    again.load_state_dict(weights)
    restore_optimizer(its_optimizer, state, Path("model_0000001.pth"))
    assert [group["lr_ratio"] for group in its_optimizer.param_groups] == [0.1, 0.2]
    step(again, its_optimizer, 0.5)
    assert all(map(torch.equal, model.parameters(), again.parameters()))


def test_what_the_checkpoint_says_comes_first() -> None:
    _, optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][1] |= {"lr_ratio": 7.0, "lr": 3.0}
    restore_optimizer(optimizer, state, Path("x"))
    assert [group["lr_ratio"] for group in optimizer.param_groups] == [0.1, 7.0]
    assert optimizer.param_groups[1]["lr"] == 3.0


DAMAGED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a group less": lambda state: state["param_groups"].pop(),
    "a parameter less": lambda state: state["param_groups"][0]["params"].clear(),
    "no groups": lambda state: state.pop("param_groups"),
    "groups of a different type": lambda state: state.update(param_groups=5),
    "no state": lambda state: state.pop("state"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_state_that_does_not_fit_is_refused_in_one_line(damage: str) -> None:
    _, optimizer = trained()
    state = copy.deepcopy(optimizer.state_dict())
    DAMAGED[damage](state)
    with pytest.raises(InputError, match="the optimizer's state in old.pth does not fit this run"):
        restore_optimizer(optimizer, state, Path("old.pth"))
