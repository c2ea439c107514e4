"""Learning rates over iterations, as factors on the base rate: warmup, then steps, cosine or poly.

The numbers are the same as in Detectron2 (solver/lr_scheduler.py, solver/build.py).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.common.errors import InputError
from pretrain.common.lookup import find


@dataclass(frozen=True)
class Schedule:
    """Learning rate over iterations: warmup, then one of three shapes.

    The shapes are steps ("WarmupMultiStepLR"), half a cosine ("WarmupCosineLR") and
    (1 - progress) ** power ("WarmupPolyLR", for semantic segmentation). `steps` are iterations at
    which the rate is multiplied by `gamma`. Warmup grows linearly from `warmup_factor` (or stays
    there, "constant") and ends at `warmup_iters`.
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
        """Returns the factor on the base learning rate at `iteration` (counted from 0)."""
        shape = SHAPES[self.name]
        length = min(self.warmup_iters, self.max_iter)
        if iteration >= length:
            return shape(self, iteration)
        # Warmup ends at the schedule's value at `warmup_iters`: 1 except for a cosine.
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


def check_steps(steps: Sequence[int], max_iter: int) -> tuple[int, ...]:
    """Returns the steps below `max_iter` as a tuple; InputError unless all steps increase."""
    if list(steps) != sorted(set(steps)):
        raise InputError(f"SOLVER.STEPS {tuple(steps)} must be increasing iterations")
    return tuple(step for step in steps if step < max_iter)
