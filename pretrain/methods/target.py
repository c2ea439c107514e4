"""Momentum (EMA) copies of a network: an online network in, a target that follows it out."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from pretrain.common.errors import InputError

Network = TypeVar("Network", bound=nn.Module)

SCHEDULES = ("constant", "cosine", "linear")


class Momentum:
    """Computes the EMA coefficient of each step, from `base` up to 1 at the end of the run.

    schedule: "constant" (MoCo v1, v2), "cosine" (BYOL, MoCo v3: 1 - (1 - base) * (1 + cos) / 2) or
    "linear" (MSN). stretch: the schedule spans this many times the run (MSN: 1.25). Raises
    InputError on a bad setting.
    """

    def __init__(self, base: float, schedule: str = "constant", stretch: float = 1.0) -> None:
        if not 0 <= base <= 1:
            raise InputError(f"METHOD.MOMENTUM {base} must be in 0 to 1")
        if schedule not in SCHEDULES:
            raise InputError(
                f"METHOD.MOMENTUM_SCHEDULE {schedule!r} is unknown; known: {', '.join(SCHEDULES)}"
            )
        self.base = base
        self.schedule = schedule
        self.stretch = stretch

    def at(self, step: int, total_steps: int) -> float:
        """Returns the coefficient of step 0..total_steps-1."""
        progress = min(step / (total_steps * self.stretch), 1.0)
        if self.schedule == "constant":
            return self.base
        left = 1.0 - progress
        if self.schedule == "cosine":
            left = 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0 - (1.0 - self.base) * left


def make_target(online: Network) -> Network:
    """Returns a copy without gradients, in the same state."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def update_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """Sets target = momentum * target + (1 - momentum) * online, for parameters only.

    The target keeps its own batch-norm statistics, as in MoCo and BYOL: its forward passes collect
    them.
    """
    theirs: list[Tensor] = [*target.parameters()]
    ours: list[Tensor] = [*online.parameters()]
    torch._foreach_mul_(theirs, momentum)
    torch._foreach_add_(theirs, ours, alpha=1.0 - momentum)
