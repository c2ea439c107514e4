"""Learning rates and parameter groups of detection fine-tuning.

In: an iteration number, or a model. Out: the factor on the base learning rate, or the groups an
optimiser takes. The numbers are Detectron2's (solver/lr_scheduler.py, solver/build.py).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pretrain.common.errors import InputError
from pretrain.common.lookup import find

OPTIMIZERS = ("SGD", "AdamW")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


@dataclass(frozen=True)
class Schedule:
    """Learning rate over iterations: warmup, then steps ("WarmupMultiStepLR"), half a cosine
    ("WarmupCosineLR") or (1 - progress) ** power ("WarmupPolyLR", of semantic segmentation).

    `steps` are iterations at which the rate is multiplied by `gamma`. Warmup grows linearly from
    `warmup_factor` (or stays there, "constant") and ends at `warmup_iters`.
    """

    name: str
    max_iter: int
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_iters: int = 0
    warmup_factor: float = 0.001
    warmup_method: str = "linear"
    end_factor: float = 0.0
    power: float = 0.9  # of WarmupPolyLR

    def __post_init__(self) -> None:
        find(self.name, SHAPES, "learning rate schedule", "SOLVER.LR_SCHEDULER_NAME")
        find(self.warmup_method, WARMUPS, "warmup", "SOLVER.WARMUP_METHOD")

    def factor(self, iteration: int) -> float:
        """What the base learning rate is multiplied by at `iteration` (counted from 0)."""
        shape = SHAPES[self.name]
        length = min(self.warmup_iters, self.max_iter)
        if iteration >= length:
            return shape(self, iteration)
        # Warmup aims at the value the schedule has where it ends: 1 except for a cosine.
        start, target = self.warmup_factor * shape(self, 0), shape(self, length)
        return start + (target - start) * WARMUPS[self.warmup_method](iteration / length)


def _multi_step(schedule: Schedule, iteration: int) -> float:
    return schedule.gamma ** bisect_right(schedule.steps, iteration)


def _cosine(schedule: Schedule, iteration: int) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * iteration / schedule.max_iter))
    return schedule.end_factor + (1.0 - schedule.end_factor) * cosine


def _poly(schedule: Schedule, iteration: int) -> float:
    rest = (1.0 - iteration / schedule.max_iter) ** schedule.power
    return schedule.end_factor + (1.0 - schedule.end_factor) * rest


SHAPES = {
    "WarmupMultiStepLR": _multi_step,
    "WarmupCosineLR": _cosine,
    "WarmupPolyLR": _poly,
}
WARMUPS = {
    "linear": lambda progress: progress,
    "constant": lambda progress: 0.0,
}


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_bias: float | None = None,
    base_lr: float,
    bias_lr_factor: float = 1.0,
    weight_decay_pos_embed: float | None = None,
    layer_factor: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of equal weight decay and learning rate, in the model's order.

    `weight_decay_bias` None leaves biases alone: then those of norm layers count as norms.
    `weight_decay_pos_embed` is of parameters named `pos_embed` (None: as the others'), and
    `layer_factor` gives what the rate of a parameter is multiplied by, from its full name.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decay, rate = weight_decay, base_lr * layer_factor(f"{path}.{name}")
            if isinstance(module, NORMS):
                decay = weight_decay_norm
            if name == "bias":
                decay = decay if weight_decay_bias is None else weight_decay_bias
                rate = rate * bias_lr_factor
            if name == "pos_embed" and weight_decay_pos_embed is not None:
                decay = weight_decay_pos_embed
            group = groups.setdefault(
                (decay, rate), {"params": [], "weight_decay": decay, "lr": rate}
            )
            group["params"].append(parameter)
    return list(groups.values())


def vit_layer_factor(name: str, *, decay: float, depth: int) -> float:
    """What ViTDet multiplies a parameter's learning rate by: `decay` per layer below the heads.

    Block k of `depth` is k + 1 layers above the patches and positions; the pyramid and all that is
    no backbone is above the last block. As Detectron2's get_vit_lr_decay_rate.
    """
    layer = depth + 1
    block = re.match(r"backbone\..*\bblocks\.(\d+)\.", name)
    if block:
        layer = int(block[1]) + 1
    elif re.match(r"backbone\..*\b(pos_embed|patch_embed)\b", name):
        layer = 0
    return decay ** (depth + 1 - layer)


def build_optimizer(
    groups: list[dict[str, Any]], *, name: str, base_lr: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """SGD as Detectron2's, or AdamW as ViTDet's (betas 0.9 and 0.999)."""
    if name == "SGD":
        return torch.optim.SGD(
            groups, lr=base_lr, momentum=momentum, nesterov=nesterov, foreach=True
        )
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=base_lr)
    raise InputError(f"TRANSFER.OPTIMIZER '{name}' is unknown; known: {', '.join(OPTIMIZERS)}")


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets every group's rate to `factor` times the rate it was built with."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor


def check_steps(steps: Sequence[int], max_iter: int) -> tuple[int, ...]:
    """The steps as a tuple; InputError unless they rise. Steps beyond the end are left out."""
    if list(steps) != sorted(set(steps)):
        raise InputError(f"SOLVER.STEPS {tuple(steps)} must rise")
    return tuple(step for step in steps if step < max_iter)
