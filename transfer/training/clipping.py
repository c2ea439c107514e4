"""Clipping of gradients before an optimiser's step, each parameter's by itself.

As Detectron2 does it (solver/build.py): by value each number is cut, by norm a parameter's gradient
is scaled down. It is done inside the optimiser's step, so that under mixed precision gradients are
unscaled before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from pretrain.common.errors import InputError

KEY = "SOLVER.CLIP_GRADIENTS"
BY_VALUE, BY_NORM = "value", "norm"


@dataclass(frozen=True)
class Clipping:
    """Has the keys of the node SOLVER.CLIP_GRADIENTS, if it is enabled."""

    kind: str  # "value" or "norm"
    limit: float
    norm: float  # which norm; 2: the Euclidean one

    def __post_init__(self) -> None:
        """Raises InputError, naming the key, for an unknown kind or a number of 0 or less."""
        if self.kind not in (BY_VALUE, BY_NORM):
            raise InputError(
                f"{KEY}.CLIP_TYPE {self.kind!r} is unknown; known: {BY_VALUE}, {BY_NORM}"
            )
        for name, value in (("CLIP_VALUE", self.limit), ("NORM_TYPE", self.norm)):
            if value <= 0:
                raise InputError(f"{KEY}.{name} {value} must be above 0")

    def add_to(self, optimizer: Optimizer) -> None:
        """Lets each step of the optimiser clip first."""
        optimizer.register_step_pre_hook(self._clip)

    def _clip(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (
                    parameter.grad is None
                ):  # its map is not used by anything; torch's functions raise
                    continue
                if self.kind == BY_VALUE:
                    clip_grad_value_(parameter, self.limit)
                else:
                    clip_grad_norm_(parameter, self.limit, self.norm)
