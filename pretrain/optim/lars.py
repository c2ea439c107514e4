"""LARS (You et al., arXiv 1708.03888) in the two forms that the field's recipes use.

Gradients in, new weights out. Weight decay is part of the gradient whose norm is used (timm and
lightly add up the two norms instead, which the authors of the recipes do not do). The forms differ
in the place of the learning rate. In google-research/simclr `lars_optimizer.py` it is inside the
momentum buffer, so a decreasing rate does not scale down earlier steps. In BYOL, MoCo v3, VICReg
and Barlow Twins it is applied after the buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Is momentum SGD whose step is scaled per tensor by trust_coefficient * |w| / |g|.

    A parameter group with `adapt=False` (batch norm and biases) is plain momentum SGD. Also give it
    weight_decay=0; `param_groups` does both. The ratio is 1 if either norm is 0.
    `momentum_holds_lr` chooses the form: True is Google's, False is that of the others. Raises
    ValueError on a negative setting.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        momentum_holds_lr: bool = True,
    ) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "trust": trust_coefficient, "adapt": True})
        self.momentum_holds_lr = momentum_holds_lr

    @torch.no_grad()
    def step(  # type: ignore[override]  # torch declares two overloads of this signature
        self, closure: Callable[[], float] | None = None
    ) -> float | None:
        """Updates all groups once; returns the closure's loss, if one was given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        # The _foreach calls update all tensors of a group in a few kernels. On a GPU, updating them
        # one by one would cost ~1000 launches.
        grads = [p.grad for p in params if p.grad is not None]  # none is missing, see `step`
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        if group["adapt"]:
            grads = list(torch._foreach_mul(grads, self._ratios(params, grads, group["trust"])))
        buffers = [self._momentum_buffer(p) for p in params]
        inside, outside = (group["lr"], 1.0) if self.momentum_holds_lr else (1.0, group["lr"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads, alpha=inside)
        torch._foreach_add_(params, buffers, alpha=-outside)

    def _momentum_buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        return state["momentum_buffer"]

    @staticmethod
    def _ratios(params: list[Tensor], grads: list[Tensor], trust: float) -> list[Tensor]:
        weight = torch.stack(torch._foreach_norm(params))
        grad = torch.stack(torch._foreach_norm(grads))
        usable = (weight > 0) & (grad > 0)
        ratio = torch.where(usable, trust * weight / torch.where(usable, grad, 1.0), 1.0)
        return list(ratio.unbind())
