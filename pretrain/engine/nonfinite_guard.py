"""Steps whose loss or gradient is not finite: skipped and logged; after too many, the run stops."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.distributed import world_size

logger = logging.getLogger(__name__)


class NonFiniteLoss(FloatingPointError):
    """Loss or gradient became infinite or not a number, more often than allowed."""


class StepGuard:
    """Says after each backward pass whether the step may be taken.

    A skipped step changes nothing: neither weights nor optimizer, momentum copies, queues, and
    batch-norm statistics are put back.

    Args:
        model: whose batch-norm statistics are kept.
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
        """Before the forward pass: keeps the batch-norm statistics."""
        if self._statistics:
            torch._foreach_copy_(self._kept, self._statistics)

    def allows(self, step: int, outcome: dict[str, Any], norm: Tensor) -> bool:
        """Whether step number `step` (from 1) may be taken, given its gradient's total norm.

        All processes agree. Waits for the device. Raises NonFiniteLoss, with the step and the
        terms, once more than `max_skipped` steps were not finite.
        """
        values = torch.stack([outcome["loss"].detach().float(), norm.float()])
        finite = torch.isfinite(values).all().float()
        if world_size() > 1:
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        self.last, size, whole = torch.cat([values, finite[None]]).tolist()
        if whole:
            return True
        self.skipped += 1
        if self._statistics:
            torch._foreach_copy_(self._statistics, self._kept)
        terms = ", ".join(f"{name} {float(term):g}" for name, term in outcome["terms"].items())
        found = f"loss {self.last:g}, gradient norm {size:g} at step {step} ({terms})"
        if self.skipped > self.max_skipped:
            raise NonFiniteLoss(
                f"{found}, after {self.skipped - 1} skipped steps; lower SOLVER.LR_PER_256, "
                "lengthen the warmup, or look at the views of that step"
            )
        logger.warning("%s: step skipped (%d of %d)", found, self.skipped, self.max_skipped)
        return False
