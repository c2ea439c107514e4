"""The training loop: a `Training` (networks, data, progress) in, the same further on out.

Everything periodic (log, checkpoint, kNN) is a callback. Legend: V views, N images in this
process's batch.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pretrain.common.distributed import rank, world_size


class NonFiniteLoss(RuntimeError):
    """The loss became infinite or not a number."""


class Loader(Protocol):
    """What the loop needs of pretrain.data.loader.CropLoader."""

    steps_per_epoch: int

    def epoch(self, epoch: int, start_step: int = 0) -> Iterable[Any]:
        """Batches with `crops` uint8 (V, N, 3, S, S), from `start_step` on."""


@dataclass
class Training:
    """Everything a step needs, and how far the run has come."""

    method: nn.Module  # has `.trunk`; its state_dict is the checkpoint's
    model: nn.Module  # the method, or its DistributedDataParallel wrapper
    optimizer: Optimizer
    lr_at: Callable[[int], float]  # step -> learning rate
    loader: Loader
    make_views: Callable[[Tensor, torch.Generator], Tensor]  # uint8 crops -> float32 views
    branches: Sequence[int]  # branch of each view
    device: torch.device
    total_steps: int
    batch_size: int  # global
    seed: int = 0
    bf16: bool = False
    step: int = 0  # steps done
    seconds: float = 0.0  # of training, pauses for the monitor left out
    loss_guard: LossGuard = field(default_factory=lambda: LossGuard())

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // self.loader.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """Steps done in the present epoch; 0 right after the last one."""
        return self.step % self.loader.steps_per_epoch

    @property
    def images_seen(self) -> int:
        """Images over all processes, counted each time they come."""
        return self.step * self.batch_size

    @property
    def views_seen(self) -> int:
        """Views over all processes: what the forward and backward passes cost."""
        return self.images_seen * len(self.branches)

    @property
    def gpu_seconds(self) -> float:
        """Training seconds times GPUs; 0 on a CPU."""
        return self.seconds * world_size() if self.device.type == "cuda" else 0.0


class Callback:
    """Called at the start, after each step, and at the end; each does nothing by default."""

    def start(self, training: Training) -> None:
        """Before the first step of this process's run."""

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """After `training.step` steps; `outcome` is what `train_step` returned for the last one."""

    def end(self, training: Training) -> None:
        """After the last step."""

    def close(self) -> None:
        """At the end or after a failure."""


class LossGuard:
    """Stops the run on a loss that is not finite, one step late: a GPU need not be waited for."""

    def __init__(self) -> None:
        self.last = math.nan
        self._waiting: tuple[int, dict[str, Any]] | None = None

    def push(self, step: int, outcome: dict[str, Any]) -> None:
        """Checks the previous step's loss, and keeps this one's for later."""
        self.flush()
        self._waiting = (step, outcome)

    def flush(self) -> None:
        """Checks now. Raises NonFiniteLoss with the step (from 1) and the terms."""
        if self._waiting is None:
            return
        step, outcome = self._waiting
        self._waiting = None
        self.last = float(outcome["loss"])
        if not math.isfinite(self.last):
            terms = ", ".join(f"{name} {float(term):g}" for name, term in outcome["terms"].items())
            raise NonFiniteLoss(
                f"loss {self.last:g} at step {step} ({terms}); lower SOLVER.LR_PER_256, "
                "lengthen the warmup, or look at the views of that step"
            )


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator for one step's augmentation on this process, so that none needs to be saved.

    On the CPU also when training is on a GPU: the draws are small, and no kernel waits for them.
    """
    digest = hashlib.sha256(f"{seed} {rank()} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def train(training: Training, callbacks: Sequence[Callback]) -> None:
    """Runs from `training.step` to `training.total_steps`."""
    try:
        for callback in callbacks:
            callback.start(training)
        training.model.train()
        clock = time.perf_counter()
        while training.step < training.total_steps:
            for batch in training.loader.epoch(training.epoch, training.step_in_epoch):
                outcome = train_step(training, batch.crops)
                training.step += 1
                training.loss_guard.push(training.step, outcome)
                training.seconds += time.perf_counter() - clock
                for callback in callbacks:
                    callback.step(training, outcome)
                clock = time.perf_counter()
                if training.step == training.total_steps:
                    break
        training.loss_guard.flush()
        for callback in callbacks:
            callback.end(training)
    finally:
        for callback in callbacks:
            callback.close()


def train_step(training: Training, crops: Tensor) -> dict[str, Any]:
    """One update from crops uint8 (V, N, 3, S, S) of this process.

    Returns the method's result, its loss detached, and the crops on the device.
    """
    crops = crops.to(training.device, non_blocking=True)
    views = training.make_views(crops, step_generator(training.seed, training.step))
    with torch.autocast(training.device.type, dtype=torch.bfloat16, enabled=training.bf16):
        outcome = training.model(views, training.branches)
    training.optimizer.zero_grad(set_to_none=True)
    outcome["loss"].backward()
    rate = training.lr_at(training.step)
    for group in training.optimizer.param_groups:
        group["lr"] = rate
    training.optimizer.step()
    return {**outcome, "loss": outcome["loss"].detach(), "crops": crops}
