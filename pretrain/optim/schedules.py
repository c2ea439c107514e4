"""Learning rates and weight decays: a step number in, a value out; `set_rates` applies a rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from pretrain.common.errors import InputError

SCHEDULES = ("cosine", "step")


def set_rates(optimizer: Optimizer, value: float, constant: float = 0.0) -> None:
    """Sets the learning rate of each group to `value`, the schedule's at this step, times the
    group's `lr_ratio`.

    Groups whose `constant_lr` is true take `constant` in place of `value`. Raises KeyError for a
    group without `lr_ratio`: with an assumed ratio it would silently train at a wrong rate.
    """
    for group in optimizer.param_groups:
        base = constant if group.get("constant_lr") else value
        group["lr"] = base * group["lr_ratio"]


def scaled_lr(lr_per_256: float, batch_size: int) -> float:
    """Returns the learning rate by the linear scaling rule: `lr_per_256` is the learning rate for
    256 images, `batch_size` is the global batch size.
    """
    return lr_per_256 * batch_size / 256


def warmup_cosine(
    step: float,
    *,
    base_lr: float,
    total_steps: float,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
    final_fraction: float = 0.0,
) -> float:
    """Returns the learning rate of step 0..total_steps-1: linear up to `base_lr`, then half a
    cosine.

    The cosine ends at `final_fraction` of `base_lr`. In the warmup, step s has gone (s + 1) /
    warmup_steps of the way from `warmup_start` (a fraction of `base_lr`) to `base_lr`. So no step
    has rate 0 (Google's SimCLR starts at 0). Raises ValueError if the warmup is not shorter than
    the run.
    """
    _check_warmup(warmup_steps, total_steps)
    if step < warmup_steps:
        return _warmed(step, base_lr, warmup_steps, warmup_start)
    progress = min((step - warmup_steps) / (total_steps - warmup_steps), 1.0)
    return base_lr * half_cosine(progress, 1.0, final_fraction)


def warmup_steps_down(
    step: float,
    *,
    base_lr: float,
    milestones: Sequence[float],
    total_steps: float,
    factor: float = 0.1,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
) -> float:
    """Returns the learning rate of step 0..total_steps-1: the warmup of `warmup_cosine`, then times
    `factor` at each milestone.

    milestones: shares of the run (0 to 1); MoCo v1: 0.6 and 0.8. Raises ValueError if the warmup is
    not shorter than the run.
    """
    _check_warmup(warmup_steps, total_steps)
    if step < warmup_steps:
        return _warmed(step, base_lr, warmup_steps, warmup_start)
    # A milestone may be later only by rounding (0.6 * 200 epochs = 120.00000000000001).
    passed = sum(step >= share * total_steps - 1e-6 for share in milestones)
    return base_lr * factor**passed


def half_cosine(progress: float, start: float, end: float) -> float:
    """Returns the value between `start` at progress 0 and `end` at progress 1, along half a
    cosine.
    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def by_epoch(schedule: Callable[[float], float], steps_per_epoch: int) -> Callable[[float], float]:
    """Returns the schedule's value at an epoch's start, kept through it (MoCo v1 and v2,
    SimSiam).
    """
    return lambda step: schedule(step // steps_per_epoch * steps_per_epoch)


def check_milestones(milestones: Sequence[float]) -> None:
    """Raises InputError if the milestones are not increasing shares of the run."""
    increasing = all(a < b for a, b in zip(milestones, milestones[1:]))
    if not milestones or not increasing or not 0 < milestones[0] or not milestones[-1] < 1:
        raise InputError(
            f"SOLVER.MILESTONES {tuple(milestones)} must be increasing shares of the run, 0 to 1"
        )


def _check_warmup(warmup_steps: int, total_steps: float) -> None:
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(f"warmup of {warmup_steps} steps does not fit in {total_steps} steps")


def _warmed(step: float, base_lr: float, warmup_steps: int, warmup_start: float) -> float:
    return base_lr * (warmup_start + (1.0 - warmup_start) * (step + 1) / warmup_steps)
