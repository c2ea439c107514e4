"""The training loop of the torchvision engine.

In: a model that returns a dict of losses, batches, an optimiser, a schedule and what is done every
so often. Out: the trained model, in place. Iterations count from 0; "every P iterations" means
after iterations P - 1, 2 P - 1, ..., as Detectron2 counts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pretrain.common.distributed import all_reduce_mean
from pretrain.common.logs import MetricsWriter, progress
from transfer.training.precision import Precision
from transfer.training.schedule import Schedule, set_rates


@dataclass(frozen=True)
class Periodic:
    """Something done after every `period` iterations (0: never), but not after the last one."""

    period: int
    action: Callable[[int], None]

    def due(self, iteration: int, max_iter: int) -> bool:
        """Whether it is done after this iteration."""
        done = iteration + 1
        return self.period > 0 and done % self.period == 0 and done < max_iter


def train(
    model: nn.Module,
    *,
    batches: Iterator[list[dict[str, Any]]],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    start_iter: int,
    metrics: MetricsWriter,
    log_period: int,
    callbacks: list[Periodic],
    precision: Precision | None = None,
    accumulate: int = 1,
) -> None:
    """Runs iterations `start_iter` .. `schedule.max_iter` - 1.

    Raises FloatingPointError, naming iteration and losses, when a loss is not finite.
    """
    with progress(total=schedule.max_iter, initial=start_iter, desc="train", unit="it") as bar:
        for iteration in range(start_iter, schedule.max_iter):
            begin = time.perf_counter()
            batch = next(batches)
            data_time = time.perf_counter() - begin

            model.train()
            set_rates(optimizer, schedule.factor(iteration))
            losses = step(
                model, batch, optimizer, iteration, precision=precision, accumulate=accumulate
            )

            bar.update(1)
            bar.set_postfix(loss=f"{sum(losses.values()):.3f}", refresh=False)
            if (iteration + 1) % log_period == 0 or iteration + 1 == schedule.max_iter:
                seconds = time.perf_counter() - begin
                metrics.write(
                    iteration,
                    total_loss=sum(losses.values()),
                    **losses,
                    # The highest is the heads', where a ViT's layers learn at falling rates.
                    lr=max(group["lr"] for group in optimizer.param_groups),
                    data_time=data_time,
                    time=seconds,
                    eta_seconds=seconds * (schedule.max_iter - iteration - 1),
                )
            for callback in callbacks:
                if callback.due(iteration, schedule.max_iter):
                    callback.action(iteration)


def step(
    model: nn.Module,
    batch: list[dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    iteration: int,
    *,
    precision: Precision | None = None,
    accumulate: int = 1,
) -> dict[str, float]:
    """One optimiser step on the sum of the model's losses, which are returned as numbers.

    The batch is taken in `accumulate` parts of equal size, and losses and gradients are the means
    over them: what as many processes would have computed, but for batch norm's statistics.

    Raises FloatingPointError, on every process, when a loss of one of them is not finite.
    """
    precision = precision or Precision()
    optimizer.zero_grad()
    parts = []
    for done, micro_batch in enumerate(micro_batches(batch, accumulate), start=1):
        # Several processes add up their gradients once, with the last part.
        waits = done < accumulate and hasattr(model, "no_sync")
        with model.no_sync() if waits else nullcontext():
            with precision.autocast():
                losses = model(micro_batch)
            precision.backward(sum(losses.values()) / accumulate)
        parts.append(torch.stack([loss.detach().float() for loss in losses.values()]))
    means = torch.stack(parts).mean(dim=0)
    # All processes stop together: of those that went on, each would wait for the others for ever.
    finite = all_reduce_mean(torch.isfinite(means).all().float())
    # One transfer from the device for all losses; before the step, so that a bad one does no harm.
    *numbers, share = torch.cat([means, finite[None]]).tolist()
    values = dict(zip(losses, numbers))
    if share < 1:
        listed = ", ".join(f"{name}={value:g}" for name, value in values.items())
        place = " on another process" if all(map(math.isfinite, numbers)) else ""
        raise FloatingPointError(
            f"a loss is not finite{place} at iteration {iteration}: {listed}; lower "
            "SOLVER.BASE_LR, or lengthen SOLVER.WARMUP_ITERS"
        )
    precision.step(optimizer)
    return values


def micro_batches(batch: list[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    """The batch in `count` parts of equal size; what does not fill a part is left out."""
    size = len(batch) // count
    for part in range(count):
        yield batch[part * size : (part + 1) * size]
