"""The training loop: it takes a `Training` (networks, data, progress) and advances it.

Everything periodic (log, checkpoint, kNN) is a callback. Legend: V views, N images in this
process's batch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from pretrain.common.distributed import rank, world_size
from pretrain.common.stop_signals import agreed, deferred, stop
from pretrain.data.loader import Batch
from pretrain.data.views import ViewMaker
from pretrain.engine.grad_cache import forward_backward_in_parts
from pretrain.engine.nonfinite_guard import StepGuard
from pretrain.engine.side_stream import SideStream
from pretrain.methods.base import Method
from pretrain.methods.shared_encoder import SharedEncoder
from pretrain.optim.schedules import set_rates


class Loader(Protocol):
    """Describes the part of pretrain.data.loader.CropLoader that the loop needs."""

    steps_per_epoch: int

    def steps(self, first: int, end: int) -> Iterable[Batch]:
        """Returns the batches of steps `first` to `end` - 1, counted over all epochs."""


@dataclass
class Unlogged:
    """Holds the sums of this process since the last row of metrics.jsonl.

    Attributes:
        sums: the loss and the method's terms, summed over `count` steps that were not skipped.
        step, seconds: those of the training when that row was written.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0
    step: int = 0
    seconds: float = 0.0

    def add(self, values: dict[str, Tensor]) -> None:
        """Adds the values of one step, without waiting for the device."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1

    def clear(self, step: int, seconds: float) -> None:
        """Starts again from zero after a row."""
        self.sums, self.count, self.step, self.seconds = {}, 0, step, seconds


@dataclass
class Training:
    """Holds everything that a step needs, and how far the run has come."""

    method: Method  # its state_dict is the checkpoint's
    model: nn.Module  # the method, or its DistributedDataParallel wrapper
    optimizer: Optimizer
    lr_at: Callable[[int], float]  # the learning rate of a step
    loader: Loader
    make_views: ViewMaker
    branches: Sequence[int]  # branch of each view
    guard: StepGuard
    device: torch.device
    total_steps: int
    batch_size: int  # images of all processes together
    seed: int = 0
    amp: torch.dtype | None = None  # autocast's dtype; None: float32. float16 scales the gradients
    base_lr: float = 0.0  # for parameters whose learning rate stays constant
    weight_decay_at: Callable[[int], float] | None = None  # None: the parameter groups say it
    clip_norm: float = 0.0  # largest norm of all gradients together; 0: they are not clipped
    parts: int = 1  # number of parts in which a process's batch is computed, see grad_cache.py
    side: SideStream | None = None  # makes the views; None: the stream of the training
    step: int = 0  # steps done
    seconds: float = 0.0  # training time without the monitor's pauses
    unlogged: Unlogged = field(default_factory=Unlogged)

    def __post_init__(self) -> None:
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp is torch.float16)

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
        """Returns the number of images that all processes have seen; each is counted each time."""
        return self.step * self.batch_size

    @property
    def views_seen(self) -> int:
        """Views of all processes; the cost of forward and backward passes depends on them."""
        return self.images_seen * len(self.branches)

    @property
    def gpu_seconds(self) -> float:
        """Returns training seconds times GPUs; 0 on a CPU."""
        return self.seconds * world_size() if self.device.type == "cuda" else 0.0


class Callback:
    """Is called at the start, after each step and at the end; by default nothing is done."""

    def start(self, training: Training) -> None:
        """Is called before the first step of this process's run."""

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Is called after `training.step` steps; `outcome` is what `train_step` returned for the
        last one.
        """

    def stop(self, training: Training) -> None:
        """Is called after a step, and after `step`, if the run is asked to end there."""

    def end(self, training: Training) -> None:
        """Is called after the last step."""

    def close(self) -> None:
        """Is called at the end or after a failure."""


def step_generator(seed: int, step: int) -> torch.Generator:
    """Returns a generator for one step's augmentation on this process, so no generator has to be
    saved.

    It is on the CPU even if training runs on a GPU: the draws are small, and no kernel waits for
    them.
    """
    digest = hashlib.sha256(f"{seed} {rank()} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def train(training: Training, callbacks: Sequence[Callback]) -> None:
    """Runs from `training.step` to `training.total_steps`.

    If a process is asked to end meanwhile, it calls `stop` of all callbacks and raises Stopped.
    """
    try:
        for callback in callbacks:
            callback.start(training)
        training.model.train()
        clock = time.perf_counter()
        with deferred():
            for outcome in steps(training):
                training.seconds += time.perf_counter() - clock
                for callback in callbacks:
                    callback.step(training, outcome)
                if agreed() and training.step < training.total_steps:
                    for callback in callbacks:
                        callback.stop(training)
                    stop()
                clock = time.perf_counter()
            for callback in callbacks:
                callback.end(training)
    finally:
        for callback in callbacks:
            callback.close()


def steps(training: Training) -> Iterator[dict[str, Any]]:
    """Takes the steps up to `training.total_steps`; yields the outcome of each finished step."""
    upcoming = prepared(training)
    following = next(upcoming, None)
    while following is not None:
        outcome = forward_backward(training, following)
        # Start it while the device still computes the gradient, before the host waits for it.
        following = next(upcoming, None)
        outcome["taken"] = finish_step(training, outcome)
        yield outcome


@dataclass(frozen=True)
class Prepared:
    """Holds one step's input on the device: V crops uint8 and views float32 (N, 3, S, S), labels
    (N,).
    """

    crops: list[Tensor]
    views: list[Tensor]
    labels: Tensor
    generator: torch.Generator  # for the draws of the method, after those of the views

    def tensors(self) -> list[Tensor]:
        """Returns all tensors."""
        return [*self.crops, *self.views, self.labels]


def prepared(training: Training) -> Iterator[Prepared]:
    """Yields the inputs of the steps from `training.step` on, prepared one step ahead of the
    training.
    """
    first, end = training.step, training.total_steps
    for step, batch in enumerate(training.loader.steps(first, end), first):
        yield prepare(training, batch, step)


def prepare(training: Training, batch: Batch, step: int) -> Prepared:
    """Makes the views of one step, on the side stream if the run has one."""
    with nullcontext() if training.side is None else training.side.launched():
        batch = batch.to(training.device)
        generator = step_generator(training.seed, step)
        views = training.make_views(batch.crops, generator)
    return Prepared(batch.crops, views, batch.labels, generator)


def forward_backward(training: Training, given: Prepared) -> dict[str, Any]:
    """Loss and gradients of one step.

    Returns the method's result, its loss detached, and the crops on the device.
    """
    if training.side is not None:
        training.side.hand_over(given.tensors())
    training.guard.before()
    if training.parts > 1:
        return {**_in_parts(training, given), "crops": given.crops}
    with _autocast(training):
        outcome = training.model(
            given.views, training.branches, labels=given.labels, generator=given.generator
        )
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(outcome["loss"]).backward()
    return {**outcome, "loss": outcome["loss"].detach(), "crops": given.crops}


def _in_parts(training: Training, given: Prepared) -> dict[str, Any]:
    assert isinstance(training.method, SharedEncoder)  # `check_config` has refused the others
    training.optimizer.zero_grad(set_to_none=True)
    return forward_backward_in_parts(
        training.method,
        training.model,
        given.views,
        training.branches,
        parts=training.parts,
        autocast=lambda: _autocast(training),
        backward=lambda loss: training.scaler.scale(loss).backward(),
    )


def _autocast(training: Training) -> torch.autocast:
    """Returns the context of a forward pass: mixed precision, if the run has it."""
    enabled = training.amp is not None
    return torch.autocast(training.device.type, dtype=training.amp, enabled=enabled)


def finish_step(training: Training, outcome: dict[str, Any]) -> bool:
    """Clips gradients, updates the weights and their momentum copies, and counts the step.

    Returns False if the update was skipped because loss or gradient was not finite.
    """
    step, scaler = training.step, training.scaler
    scaler.unscale_(training.optimizer)
    norm = clip_gradients(training.optimizer, training.clip_norm)
    taken = training.guard.allows(step + 1, outcome, norm, scaler)
    if taken:
        set_rates(training.optimizer, training.lr_at(step), training.base_lr)
        set_weight_decay(training, step)
        # `scaler.step` would check a second time whether the gradients are finite.
        training.optimizer.step()
        training.method.after_step(step, training.total_steps)
    scaler.update()
    training.step += 1
    return taken


def clip_gradients(optimizer: Optimizer, max_norm: float) -> Tensor:
    """Scales the gradients of groups with `clip` down to a total norm of `max_norm` (0 = off).

    Returns the norm of all gradients before the scaling, a scalar on their device.
    """
    kept: list[Tensor] = []
    clipped: list[Tensor] = []
    for group in optimizer.param_groups:
        target = clipped if group.get("clip", True) else kept
        target += group["params"]
    norm = get_total_norm(_gradients(clipped))
    if max_norm > 0:
        clip_grads_with_norm_(clipped, max_norm, norm)
    if not _gradients(kept):
        return norm
    return torch.stack([norm, get_total_norm(_gradients(kept))]).norm()


def _gradients(params: Iterable[Tensor]) -> list[Tensor]:
    return [param.grad for param in params if param.grad is not None]


def set_weight_decay(training: Training, step: int) -> None:
    """Sets the weight decay of a step in the parameter groups that follow its schedule."""
    if training.weight_decay_at is None:
        return
    for group in training.optimizer.param_groups:
        if group.get("decays"):
            group["weight_decay"] = training.weight_decay_at(step)
