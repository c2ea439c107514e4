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

ROUNDING = 1e-6  # share of a run that a place in it may be rounded down by (fvcore's number)


@dataclass(frozen=True)
class Schedule:
    """Computes the learning rate over iterations: warmup, then one of SHAPES.

    The shapes are steps ("WarmupMultiStepLR"), `num_decays` steps of equal length
    ("WarmupStepWithFixedGammaLR"), half a cosine ("WarmupCosineLR") and (1 - progress) ** power
    ("WarmupPolyLR", for semantic segmentation). `steps` are iterations at which the rate is
    multiplied by `gamma`. Warmup grows linearly from `warmup_factor` (or stays there, "constant")
    and ends at `warmup_iters`. The schedule then continues from there; with `rescale` it begins
    there, and takes the rest of the run.
    """

    name: str
    max_iter: int
    steps: tuple[int, ...] = ()
    gamma: float = 0.1
    warmup_iters: int = 0
    warmup_factor: float = 0.001
    warmup_method: str = "linear"
    end_factor: float = 0.0
    power: float = 0.9  # only WarmupPolyLR uses it
    num_decays: int = 3  # only WarmupStepWithFixedGammaLR uses it
    rescale: bool = False

    def __post_init__(self) -> None:
        find(self.name, SHAPES, "learning rate schedule", "SOLVER.LR_SCHEDULER_NAME")
        find(self.warmup_method, WARMUPS, "warmup", "SOLVER.WARMUP_METHOD")

    def factor(self, iteration: int) -> float:
        """Returns the factor on the base learning rate at `iteration` (counted from 0)."""
        shape = SHAPES[self.name]
        length = min(self.warmup_iters, self.max_iter)
        if iteration >= length:
            place: float = iteration
            if self.rescale:
                place = (iteration - length) / (self.max_iter - length) * self.max_iter
            return shape(self, place)
        # Warmup ends at the schedule's value at `warmup_iters`: 1 except for a cosine.
        start = self.warmup_factor * shape(self, 0)
        target = shape(self, 0 if self.rescale else length)
        return start + (target - start) * WARMUPS[self.warmup_method](iteration / length)


def _multi_step(schedule: Schedule, iteration: float) -> float:
    # A place that was rescaled may be rounded to just below a step.
    slack = ROUNDING * schedule.max_iter if schedule.rescale else 0
    return schedule.gamma ** bisect_right(schedule.steps, iteration + slack)


def _equal_steps(schedule: Schedule, iteration: float) -> float:
    progress = iteration / schedule.max_iter + ROUNDING
    return schedule.gamma ** int(progress * (schedule.num_decays + 1))


def _cosine(schedule: Schedule, iteration: float) -> float:
    cosine = 0.5 * (1.0 + math.cos(math.pi * iteration / schedule.max_iter))
    return schedule.end_factor + (1.0 - schedule.end_factor) * cosine


def _poly(schedule: Schedule, iteration: float) -> float:
    rest = (1.0 - iteration / schedule.max_iter) ** schedule.power
    return schedule.end_factor + (1.0 - schedule.end_factor) * rest


SHAPES = {
    "WarmupMultiStepLR": _multi_step,
    "WarmupStepWithFixedGammaLR": _equal_steps,
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
