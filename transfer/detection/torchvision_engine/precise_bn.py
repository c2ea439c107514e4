"""Precise batch normalisation: it replaces running statistics by those of many training batches.

C channels of a layer, n elements per channel of one batch (N * H * W), W processes.
Specification: Wu & Johnson 2021 as in fvcore `nn/precise_bn.py`; unlike there, all processes pool
their batches, so that every rank ends with the same statistics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.common.distributed import world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from transfer.detection.torchvision_engine.batchnorm import NaiveSyncBatchNorm

logger = logging.getLogger(__name__)

BatchNorm = nn.modules.batchnorm._BatchNorm


def _statistics(layer: BatchNorm) -> tuple[Tensor, Tensor]:
    """Returns the running mean and variance, each (C,)."""
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise ValueError("a batch norm of the detector tracks no statistics")
    return mean, var


class _Pool:
    """Mean and mean square over the batches seen so far, weighted by their elements."""

    def __init__(self, layer: BatchNorm) -> None:
        self.layer = layer
        self.count = 0.0
        mean, var = _statistics(layer)
        self.mean, self.square = torch.zeros_like(mean), torch.zeros_like(var)

    def update(self, count: int, shared_count: float) -> None:
        """Take in one batch's statistics, which the layer holds after a step of momentum 1.

        Args:
            count: n of this process, its weight.
            shared_count: n that the variance was corrected with.
        """
        mean, biased = _statistics(self.layer)
        # torch's layers keep the unbiased variance, which cannot be pooled; naiveSyncBN does not.
        if world_size() == 1 or not isinstance(self.layer, NaiveSyncBatchNorm):
            biased = biased * ((shared_count - 1) / shared_count)
        square = mean.square() + biased
        self.count += count
        share = count / self.count
        self.mean += (mean - self.mean) * share
        self.square += (square - self.square) * share

    def finish(self) -> None:
        """Write the pooled statistics of all processes into the layer."""
        if world_size() > 1:
            total = self.mean.new_tensor([self.count])
            sums = torch.cat([self.mean * self.count, self.square * self.count, total])
            dist.all_reduce(sums)
            self.mean, self.square = (sums[:-1] / sums[-1].clamp(min=1)).chunk(2)
            self.count = float(sums[-1])
        if self.count:
            mean, var = _statistics(self.layer)
            mean.copy_(self.mean)
            var.copy_(self.square - self.mean.square())


@torch.no_grad()
def update_bn_stats(model: nn.Module, batches: Iterable[Any], num_iters: int = 200) -> None:
    """Replaces the running statistics of every batch norm in training mode by those of `num_iters`
    batches under the present weights. Call it on all ranks, the model in training mode.

    Raises:
        InputError: `batches` ends before `num_iters`.
    """
    layers = [m for m in model.modules() if m.training and isinstance(m, BatchNorm)]
    if not layers:
        return
    logger.info("precise BN: %d layers, %d batches", len(layers), num_iters)
    counts: dict[nn.Module, int] = {}

    def count_elements(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counts[layer] = inputs[0].numel() // inputs[0].shape[1]

    pools = [_Pool(layer) for layer in layers]
    momenta = [layer.momentum for layer in layers]
    hooks = [layer.register_forward_pre_hook(count_elements) for layer in layers]
    done = 0
    try:
        for layer in layers:
            layer.momentum = 1.0  # the running statistics become the batch's own
        for batch in progress(islice(batches, num_iters), "precise BN", total=num_iters):
            counts.clear()
            model(batch)
            shared = _shared_counts(layers, counts)
            for pool in pools:
                if counts.get(pool.layer):
                    pool.update(counts[pool.layer], shared[pool.layer])
            done += 1
    finally:
        for layer, momentum, hook in zip(layers, momenta, hooks):
            layer.momentum = momentum
            hook.remove()
    if done < num_iters:
        raise InputError(
            f"TEST.PRECISE_BN.NUM_ITER is {num_iters}, but there were only {done} batches; lower it"
        )
    for pool in pools:
        pool.finish()


def _shared_counts(layers: list[BatchNorm], counts: dict[nn.Module, int]) -> dict[Any, float]:
    """Returns the n of each layer's variance: over all processes if the layer synchronises."""
    own = {layer: float(counts.get(layer, 0)) for layer in layers}
    if world_size() == 1:
        return own
    device = _statistics(layers[0])[0].device
    total = torch.tensor(list(own.values()), dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return {
        layer: own[layer] if type(layer) is nn.BatchNorm2d else float(value)
        for layer, value in zip(layers, total)
    }
