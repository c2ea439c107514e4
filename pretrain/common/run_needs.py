"""Compares what a run needs with what a GPU and its machine have: one line for each need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.gpus import SLOWEST, WORKSPACE, Gpu
from pretrain.common.step_cost import StepCost

SHARED_MEMORY = Path("/dev/shm")
PINNED_BATCHES = 2  # batches in page-locked memory: the one in use and the next one


@dataclass(frozen=True)
class RunNeeds:
    """Describes the needs of a training on several processes, each with a GPU.

    Attributes:
        cost: the cost of a step of one process.
        images: number of images in a batch of one process.
        steps: number of steps of the run; None if the number of training images is not known.
        half: whether the run uses mixed precision.
        remedy: what to change if the memory does not suffice.
    """

    cost: StepCost
    processes: int
    images: int
    steps: int | None
    half: bool
    remedy: str

    @property
    def gpu_bytes(self) -> int:
        """Bytes on one GPU, including memory that does not belong to tensors."""
        return int(self.cost.peak_bytes * (1 + WORKSPACE))


@dataclass(frozen=True)
class Line:
    """Describes one need. `problem` is "" if it is met, otherwise what to change. `fatal` says
    whether a run would then fail; on a different machine it may not.
    """

    name: str
    text: str
    problem: str = ""
    fatal: bool = True

    @property
    def detail(self) -> str:
        """Returns the text, and what to change if the need is not met."""
        return f"{self.text}; it does not fit: {self.problem}" if self.problem else self.text


def gpu_lines(needs: RunNeeds, gpu: Gpu) -> Iterator[Line]:
    """Yields the memory of a step and the hours of the run on GPUs of this kind."""
    need, peak = needs.gpu_bytes / 2**30, needs.cost.peak_bytes / 2**30
    text = (
        f"{peak:.1f} GiB at {needs.images} images per process, {need:.1f} with "
        f"{WORKSPACE:.0%} for workspace, of {gpu.gib:.1f} GiB"
    )
    problem = needs.remedy if need > gpu.gib else ""
    yield Line(f"memory {gpu.name}", text, problem)
    yield Line(f"compute {gpu.name}", _compute(needs, gpu))


def _compute(needs: RunNeeds, gpu: Gpu) -> str:
    text = f"{needs.cost.flops / 1e12:.3g} TFLOP per step of a process"
    if needs.steps is None:
        return f"{text}; hours unknown, because the number of training images is not known"
    text += f", {needs.steps} steps"
    speed = gpu.speed(needs.half)
    if speed is None:
        return f"{text}; hours unknown, because {gpu.name} is not calibrated"
    hours = needs.steps * needs.cost.flops / 1e12 / speed.tflops / 3600
    return (
        f"{text}; {_hours(hours)} to {_hours(hours * SLOWEST)} hours on {needs.processes} of them "
        f"({speed.tflops:g} TFLOP/s, {speed.source}; the longer time includes a slow loader)"
    )


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.2g}"


def machine_lines(
    shared: int, batch: int, processes: int, free_memory: int | None, here: bool = True
) -> Iterator[Line]:
    """Returns the lines about the shared memory and the host memory that the loaders need, of all
    processes, on this machine.

    Args:
        shared: bytes of shared memory that the waiting batches of one process fill.
        batch: bytes of one batch.
        free_memory: bytes of free memory on the host; None: not known.
        here: whether the run would be on this machine.
    """
    if not shared:
        return
    free, whole = free_shared_memory(), shared * processes
    text = f"{_gib(whole)} for the waiting batches, {_gib(shared)} per process"
    text += "" if free is None else f"; {SHARED_MEMORY} has {_gib(free)} free"
    full = free is not None and whole > free
    problem = (
        "lower DATALOADER.PREFETCH_GIB or NUM_WORKERS, or raise a container's --shm-size"
        if full
        else ""
    )
    yield Line("shared memory", text, problem, here)
    host = whole + PINNED_BATCHES * batch * processes
    text = f"{_gib(host)} for batches, shared memory included, in addition to the processes' own"
    text += "" if free_memory is None else f"; {_gib(free_memory)} are free"
    full = free_memory is not None and host > free_memory
    yield Line(
        "host memory", text, "lower DATALOADER.PREFETCH_GIB or NUM_WORKERS" if full else "", here
    )


def free_shared_memory() -> int | None:
    """Returns the number of free bytes in /dev/shm; None if it does not exist."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
