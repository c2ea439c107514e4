"""Batch normalisation over all processes: torch's on CUDA, an all-reduce version elsewhere.

torch's SyncBatchNorm refuses CPU tensors; ours has the same state_dict names, the same maths
(unbiased running variance over the global batch), and runs where gloo runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pretrain.common.distributed import world_size


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes; the gradient of a sum that every process uses is itself summed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total


class AllReduceBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm1d/2d whose training statistics are those of the global batch.

    Input (N, C) or (N, C, H, W); batches may differ in size between processes.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        axes = [0, *range(2, x.dim())]
        rows = x.float()
        count = rows.new_tensor([x.numel() / x.shape[1]])
        sums = _AllReduceSum.apply(torch.cat([rows.sum(axes), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        # A second pass for the centred squares: E[x^2] - E[x]^2 loses digits in float32.
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = rows - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().sum(axes)) / total
        self._update_running(mean.detach(), variance.detach(), total)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, total: Tensor) -> None:
        if not self.track_running_stats:
            return
        self.num_batches_tracked.add_(1)
        rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        unbiased = variance * total / (total - 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every BatchNorm by one that synchronises; the model itself in a single process.

    Args:
        device: where the model will run; decides between torch's module and ours.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return _convert(model)


def _convert(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        ours = AllReduceBatchNorm(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
        )
        ours.load_state_dict(module.state_dict())
        if module.affine:  # keep the parameter objects: an optimiser may hold them
            ours.weight, ours.bias = module.weight, module.bias
        return ours.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, _convert(child))
    return module
