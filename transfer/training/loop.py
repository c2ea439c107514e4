"""The training loop of the downstream tasks: steps in parts, checked losses, periodic work.

A model takes a part of a batch and returns a dict of losses. `steps` is the loop itself, which the
trainer of classification calls once per epoch; `train` adds metrics.json and periodic work.
Iterations count from 0; "every P iterations" means after iterations P - 1, 2 P - 1, ..., as in
Detectron2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as Distributed
from torch.optim import Optimizer

from pretrain.common.distributed import all_reduce_mean, world_size
from pretrain.common.logs import MetricsWriter, progress
from pretrain.common.stop_signals import agree, agreed, asked, deferred, stop
from pretrain.optim.schedules import set_rates
from transfer.training.precision import Precision
from transfer.training.schedule import Schedule

REMEDY = "lower SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS"


@dataclass(frozen=True)
class Step:
    """Describes a finished optimizer step.

    Attributes:
        losses: losses of this process, by name.
        data_time: seconds of waiting for the batch; time: seconds of the full step, including the
            waiting.
    """

    iteration: int
    losses: Mapping[str, float]
    data_time: float
    time: float

    @property
    def loss(self) -> float:
        """Returns the sum of the losses."""
        return sum(self.losses.values())


@dataclass(frozen=True)
class Periodic:
    """Is work that is done after every `period` iterations (0: never), but not after the last."""

    period: int
    action: Callable[[int], None]

    def due(self, iteration: int, max_iter: int) -> bool:
        """Returns whether the work is done after this iteration."""
        done = iteration + 1
        return self.period > 0 and done % self.period == 0 and done < max_iter


def train(
    model: nn.Module,
    *,
    batches: Iterator[list[dict[str, Any]]],
    optimizer: Optimizer,
    schedule: Schedule,
    start_iter: int,
    metrics: MetricsWriter,
    log_period: int,
    callbacks: list[Periodic],
    save: Callable[[int], None],
    precision: Precision | None = None,
    accumulate: int = 1,
) -> None:
    """Runs iterations `start_iter` .. `schedule.max_iter` - 1, each batch in `accumulate` parts.

    Args:
        save: saves the model after an iteration; called when the run is asked to end.

    Raises:
        FloatingPointError: a loss is not finite; the message names iteration and losses.
        Stopped: a process was asked to end, and the model was saved.
    """
    last = schedule.max_iter - 1
    taken = steps(
        model,
        batches=(micro_batches(batch, accumulate) for batch in batches),
        optimizer=optimizer,
        rate_at=schedule.factor,
        iterations=range(start_iter, schedule.max_iter),
        precision=precision,
    )
    with (
        deferred(),
        progress(taken, total=last + 1, initial=start_iter, desc="train", unit="it") as bar,
    ):
        for step in bar:
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            if (step.iteration + 1) % log_period == 0 or step.iteration == last:
                metrics.write(
                    step.iteration,
                    total_loss=step.loss,
                    **step.losses,
                    # If a ViT's layers have different rates, the highest is the heads' rate.
                    lr=max(group["lr"] for group in optimizer.param_groups),
                    data_time=step.data_time,
                    time=step.time,
                    eta_seconds=step.time * (last - step.iteration),
                )
            for callback in callbacks:
                if callback.due(step.iteration, schedule.max_iter):
                    callback.action(step.iteration)
            if agreed() and step.iteration < last:
                save(step.iteration)
                stop()
    if asked():  # a resumed run can do the work that follows the training
        stop()


def steps(
    model: nn.Module,
    *,
    batches: Iterator[Sequence[Any]],
    optimizer: Optimizer,
    rate_at: Callable[[int], float],
    iterations: range,
    precision: Precision | None = None,
    mean: bool = True,
    place: Callable[[int], str] = "iteration {}".format,
    remedy: str = REMEDY,
) -> Iterator[Step]:
    """Takes the steps of `iterations`; yields each step after it is taken.

    Args:
        batches: for each iteration the parts of this process's batch.
        rate_at: returns, for an iteration, the factor that `set_rates` applies to each parameter
            group's rate.
        mean: see `take_step`.
        place: maps an iteration to its name in the error about a loss that is not finite.
        remedy: the advice in this error.
    """
    model.train()
    for iteration in iterations:
        begin = time.perf_counter()
        parts = next(batches)
        data_time = time.perf_counter() - begin
        set_rates(optimizer, rate_at(iteration))
        losses = take_step(
            model,
            parts,
            optimizer,
            place(iteration),
            precision=precision,
            mean=mean,
            remedy=remedy,
        )
        yield Step(iteration, losses, data_time, time.perf_counter() - begin)


def take_step(
    model: nn.Module,
    parts: Sequence[Any],
    optimizer: Optimizer,
    place: str,
    *,
    precision: Precision | None = None,
    mean: bool = True,
    remedy: str = REMEDY,
) -> dict[str, float]:
    """Takes one optimizer step on the sum of the model's losses; returns the losses as numbers.

    Args:
        mean: True: losses and gradients are means over the batch's parts. They equal those of one
            process per part, except for batch norm's statistics. False: they are sums, for a model
            that gives each part its share of the batch's loss.

    Raises:
        FloatingPointError: a loss on any process is not finite; all processes raise it.
    """
    precision, divisor = precision or Precision(), len(parts) if mean else 1
    optimizer.zero_grad()
    rows = []
    for done, part in enumerate(parts, start=1):
        # Processes add up their gradients only once, with the last part.
        more = done < len(parts)
        with model.no_sync() if more and isinstance(model, Distributed) else nullcontext():
            with precision.autocast():
                losses = model(part)
            precision.backward(add(losses.values()) / divisor)
        rows.append(torch.stack([loss.detach().float() for loss in losses.values()]))
    by_part = torch.stack(rows)
    totals = by_part.mean(dim=0) if mean else by_part.sum(dim=0)
    values = check_finite(dict(zip(losses, totals)), place, remedy)
    precision.step(optimizer)
    return values


def check_finite(losses: Mapping[str, Tensor], place: str, remedy: str) -> dict[str, float]:
    """Returns the losses as numbers, and tells all processes if one of them was asked to end.

    Raises:
        FloatingPointError: a loss on any process is not finite; all processes raise it.
    """
    values = torch.stack(list(losses.values()))
    # All processes stop together: a process that continued would wait for the others for ever.
    finite = torch.isfinite(values).all().float()
    if asked():
        # The request to end is sent with the flag for finite losses. If any loss is not finite, the
        # mean over W processes is still below 1, because (W - 1) (1 + 1 / 2W) < W.
        finite *= 1 + 1 / (2 * world_size())
    finite = all_reduce_mean(finite)
    # One transfer from the device for all losses, before the step: a bad loss changes no weights.
    *numbers, share = torch.cat([values, finite[None]]).tolist()
    found = dict(zip(losses, numbers))
    if share < 1:
        listed = ", ".join(f"{name}={value:g}" for name, value in found.items())
        elsewhere = " on another process" if all(map(math.isfinite, numbers)) else ""
        raise FloatingPointError(f"a loss is not finite{elsewhere} at {place}: {listed}; {remedy}")
    if share > 1:
        agree()
    return found


def add(losses: Iterable[Tensor]) -> Tensor:
    """Returns the sum of losses, added in their order."""
    return reduce(torch.add, losses)


def micro_batches(batch: Sequence[Any], count: int) -> list[Sequence[Any]]:
    """Returns the batch in `count` parts of equal size; a remainder is left out."""
    size = len(batch) // count
    return [batch[part * size : (part + 1) * size] for part in range(count)]
