"""Which images share batch-norm statistics: the global batch, or groups of a fixed size.

For several processes there are two versions. Both have the state_dict names and the maths of
torch's SyncBatchNorm (unbiased running variance over the global batch). `AllReduceBatchNorm` uses
plain operations, for CPUs. `KernelBatchNorm` calls torch's CUDA kernels. torch's own module refuses
CPU tensors. It also leaves out processes without images by boolean masks, and each mask makes the
host wait for the GPU, three times per layer. Here every process has images.

Legend: N images of this process, C channels, W processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.distributed import gather_rows, world_size

Norm = TypeVar("Norm", bound=_BatchNorm)


class _AllReduceSum(torch.autograd.Function):
    """Sum over processes. Every process uses the sum, so its gradient is also summed."""

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


class AllReduceBatchNorm(_BatchNorm):
    """Is BatchNorm1d/2d whose training statistics are those of the global batch.

    Input (N, C) or (N, C, H, W); batches may differ in size between processes.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        return self._over_processes(x)

    def _over_processes(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.dim())]
        rows = x.to(torch.promote_types(x.dtype, torch.float32))
        count = rows.new_tensor([x.numel() / x.shape[1]])
        sums = _AllReduceSum.apply(torch.cat([rows.sum(axes), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        # A second pass for the centred squares: E[x^2] - E[x]^2 loses digits in float32.
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = rows - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().sum(axes)) / total
        if running := _running(self):
            rate, unbiased = _rate(self, running), variance.detach() * total / (total - 1)
            running.mean.lerp_(mean.detach().to(running.mean.dtype), rate)
            running.var.lerp_(unbiased.to(running.var.dtype), rate)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


class _KernelNorm(torch.autograd.Function):
    """Batch norm over the images of all processes by torch's kernels, without a host wait."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running: tuple[Tensor | None, Tensor | None],
        rate: float,
        eps: float,
    ) -> Tensor:
        """x (N, C, ...); `running` mean and variance (C,) are updated by `rate`, in place."""
        x, channels = _dense(x), x.shape[1]
        mean, inverse_std = torch.batch_norm_stats(x, eps)
        # The number of values is sent with the statistics: one collective, and no wait to read it.
        own = torch.cat([mean, inverse_std, mean.new_full((1,), x.numel() // channels)])
        everyone = gather_rows(own[None])
        means, inverse_stds, counts = everyone.split([channels, channels, 1], dim=1)
        counts = counts.reshape(-1)
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            x, means, inverse_stds, *running, rate, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse_std, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        grad, (of_x, of_weight, of_bias) = _dense(grad), ctx.needs_input_grad[:3]
        sums, products, weight_grad, bias_grad = torch.batch_norm_backward_reduce(
            grad, x, mean, inverse_std, weight, of_x, of_weight, of_bias
        )
        x_grad = None
        if of_x:
            total = torch.cat([sums, products])
            dist.all_reduce(total)
            sums, products = total.chunk(2)
            x_grad = torch.batch_norm_backward_elemt(
                grad, x, mean, inverse_std, weight, sums, products, counts
            )
        own = (x_grad, weight_grad if of_weight else None, bias_grad if of_bias else None)
        return (*own, None, None, None)


class KernelBatchNorm(AllReduceBatchNorm):
    """Computes `AllReduceBatchNorm` on CUDA with torch's kernels, for inputs of any dtype that they
    support.
    """

    def _over_processes(self, x: Tensor) -> Tensor:
        running = _running(self)
        moved = (running.mean, running.var) if running else (None, None)
        rate = _rate(self, running) if running else 0.0
        return _KernelNorm.apply(x, self.weight, self.bias, moved, rate, self.eps)


def _dense(x: Tensor) -> Tensor:
    """Returns the tensor in a layout that the kernels read: channels first or last, contiguous."""
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return x if last else x.contiguous()


class GroupBatchNorm(_BatchNorm):
    """Is BatchNorm1d/2d with separate statistics for every `group_size` images in a row.

    On one GPU it computes the same as N / group_size GPUs without SyncBN (MoCo's per-GPU
    statistics, after the idea of SplitBatchNorm in its colab notebook). Running statistics are
    updated by the mean over the groups. Raises ValueError if the groups do not divide the images,
    or if there are no running statistics.
    """

    group_size: int

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if len(x) % self.group_size:
            raise ValueError(f"{len(x)} images do not split into groups of {self.group_size}")
        running = _running(self)
        if running is not None and len(x) == self.group_size:
            return super().forward(x)  # the same numbers in fewer kernels
        if running is None:
            raise ValueError("a batch norm over groups needs running statistics")
        rate = _rate(self, running)
        parts, statistics = [], []
        for part in x.split(self.group_size):
            moved = (running.mean.clone(), running.var.clone())
            parts.append(F.batch_norm(part, *moved, self.weight, self.bias, True, rate, self.eps))
            statistics.append(moved)
        for buffer, values in zip((running.mean, running.var), zip(*statistics)):
            buffer.copy_(torch.stack(values).mean(dim=0))
        return torch.cat(parts)


class _Running(NamedTuple):
    """The buffers of a batch norm that tracks statistics: (C,), (C,), and a count."""

    mean: Tensor
    var: Tensor
    batches: Tensor


def _running(norm: _BatchNorm) -> _Running | None:
    """Returns the norm's buffers; None if it has no running statistics."""
    mean, var, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
    if mean is None or var is None or batches is None:
        return None
    return _Running(mean, var, batches)


def _rate(norm: _BatchNorm, running: _Running) -> float:
    """Counts one more batch, and returns the weight of its statistics in the running ones."""
    running.batches.add_(1)
    return norm.momentum if norm.momentum is not None else 1.0 / float(running.batches)


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every BatchNorm by one that synchronises; no change in a single process.

    Args:
        device: where the model will run; decides whether CUDA's kernels are used.
    """
    if world_size() == 1:
        return model
    kind = KernelBatchNorm if device.type == "cuda" else AllReduceBatchNorm
    return _convert(model, lambda norm: norm_like(kind, norm))


def with_kernels(norm: AllReduceBatchNorm) -> KernelBatchNorm:
    """Returns the same layer, with the same parameters and buffers, on CUDA's kernels."""
    return norm_like(KernelBatchNorm, norm)


def convert_group_batchnorm(model: nn.Module, group_size: int) -> nn.Module:
    """Replaces every BatchNorm by one whose statistics are those of `group_size` images."""

    def grouped(norm: _BatchNorm) -> nn.Module:
        ours = norm_like(GroupBatchNorm, norm)
        ours.group_size = group_size
        return ours

    return _convert(model, grouped)


def _has_activation(module: nn.Module) -> bool:
    """Returns whether the module is a batch norm of timm that ends with dropout and an
    activation.
    """
    return isinstance(module, _BatchNorm) and hasattr(module, "act")


def norm_like(kind: type[Norm], norm: _BatchNorm) -> Norm:
    """Returns a `kind` with the settings, parameters and buffers of `norm`, on its device."""
    ours = kind(
        norm.num_features,
        eps=norm.eps,
        momentum=norm.momentum,
        affine=norm.affine,
        track_running_stats=norm.track_running_stats,
    )
    # The same parameter objects are used, because an optimizer may refer to them.
    ours.weight, ours.bias = norm.weight, norm.bias
    ours.running_mean, ours.running_var = norm.running_mean, norm.running_var
    ours.num_batches_tracked = norm.num_batches_tracked
    keep_activation(ours, norm)
    return ours.train(norm.training)


def keep_activation(ours: nn.Module, norm: _BatchNorm) -> None:
    """Lets `ours` end as timm's BatchNormAct2d does, or a layer that took the place of one, without
    a name of its own in the state."""
    if _has_activation(norm):
        drop, act = norm.get_submodule("drop"), norm.get_submodule("act")
        ours.register_forward_hook(lambda module, inputs, output: act(drop(output)))
    for hook in norm._forward_hooks.values():
        ours.register_forward_hook(hook)


def _convert(module: nn.Module, replace: Callable[[_BatchNorm], nn.Module]) -> nn.Module:
    if isinstance(module, _BatchNorm):
        return replace(module)
    for name, child in module.named_children():
        setattr(module, name, _convert(child, replace))
    return module
