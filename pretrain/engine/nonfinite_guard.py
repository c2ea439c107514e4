"""Skips and logs steps whose loss or gradient is not finite; after too many, the run stops."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.distributed import world_size
from pretrain.common.stop_signals import agree, asked

logger = logging.getLogger(__name__)


class NonFiniteLoss(FloatingPointError):
    """Says that loss or gradient became infinite or not a number, more often than allowed."""


class StepGuard:
    """Decides after each backward pass whether the step may be taken.

    A skipped step changes nothing: weights, optimizer, momentum copies and queues stay the same,
    and batch-norm statistics are restored. With scaled gradients (float16), a scale that is too
    large is normal: such steps are skipped, but not counted.

    Args:
        model: the network whose batch-norm statistics are kept.
        max_skipped: steps that may be skipped before the run stops.
    """

    def __init__(self, model: nn.Module, max_skipped: int = 0) -> None:
        self.max_skipped = max_skipped
        self.skipped = 0
        self.last = math.nan  # the latest loss
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._statistics]

    def before(self) -> None:
        """Keeps the batch-norm statistics; called before the forward pass."""
        if self._statistics:
            torch._foreach_copy_(self._kept, self._statistics)

    def allows(
        self, step: int, outcome: dict[str, Any], norm: Tensor, scaler: GradScaler | None = None
    ) -> bool:
        """Returns whether step number `step` (from 1) may be taken, given its gradient's total
        norm.

        All processes agree, and learn whether one of them was asked to end. Waits for the device.
        Raises NonFiniteLoss, with the step and the terms, as soon as more than `max_skipped` steps
        were not finite.
        """
        values = torch.stack([outcome["loss"].detach().float(), norm.float()])
        finite = torch.isfinite(values).float()
        if asked():
            finite /= 2  # sent with the same exchange: 0 means not finite, 1/2 finite and ending
        if world_size() > 1:
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        self.last, size, finite_loss, finite_norm = torch.cat([values, finite]).tolist()
        if 0.5 in (finite_loss, finite_norm):
            agree()
        if finite_loss and finite_norm:
            return True
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._kept)
        scale = scaler.get_scale() if scaler is not None else 1.0
        if finite_loss and scale > 1:
            logger.info("gradients overflow at step %d: their scale %g is halved", step, scale)
            return False
        self.skipped += 1
        terms = ", ".join(f"{name} {float(term):g}" for name, term in outcome["terms"].items())
        found = f"loss {self.last:g}, gradient norm {size:g} at step {step} ({terms})"
        if self.skipped > self.max_skipped:
            raise NonFiniteLoss(
                f"{found}, after {self.skipped - 1} skipped steps; lower SOLVER.LR_PER_256, "
                "use a longer warmup, or look at the views of that step"
            )
        logger.warning("%s: step skipped (%d of %d)", found, self.skipped, self.max_skipped)
        return False
