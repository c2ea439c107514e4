"""torch's kernels of synchronised batch norm, which only GPUs have, in plain operations for CPUs.

Slow and obvious: x (N, C, ...); statistics of channels (C,), those of W processes (W, C).
"""

from __future__ import annotations

import torch
from torch import Tensor


def axes_and_shape(x: Tensor) -> tuple[list[int], list[int]]:
    return [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    axes, _ = axes_and_shape(x)
    return x.mean(axes), (x.var(axes, correction=0) + eps).rsqrt()


def gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    inverse_stds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    shares, total = (counts / counts.sum())[:, None], counts.sum()
    mean = (shares * means).sum(dim=0)
    var = (shares * (inverse_stds**-2 - eps + (means - mean) ** 2)).sum(dim=0)
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * total / (total - 1), momentum)
    return mean, (var + eps).rsqrt()


def elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, eps: float
) -> Tensor:
    _, shape = axes_and_shape(x)
    y = (x - mean.view(shape)) * inverse.view(shape)
    return y if weight is None else y * weight.view(shape) + bias.view(shape)


def backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor | None, *needs: bool
) -> tuple[Tensor, ...]:
    axes, shape = axes_and_shape(x)
    sums, products = grad.sum(axes), (grad * (x - mean.view(shape))).sum(axes)
    return sums, products, products * inverse, sums.clone()


def backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor | None,
    sums: Tensor,
    products: Tensor,
    counts: Tensor,
) -> Tensor:
    _, shape = axes_and_shape(x)
    scale = inverse if weight is None else inverse * weight
    centred = (x - mean.view(shape)) * (inverse**2 * products / counts.sum()).view(shape)
    return (grad - (sums / counts.sum()).view(shape) - centred) * scale.view(shape)


def give_cpus_the_kernels() -> torch.library.Library:
    """Registers them with torch, for as long as the result is kept."""
    library = torch.library.Library("aten", "IMPL", "CPU")
    kernels = (stats, gather_stats_with_counts, elemt, backward_reduce, backward_elemt)
    for kernel in kernels:
        library.impl(f"batch_norm_{kernel.__name__}", kernel)
    return library
