"""Losses against redundant dimensions (VICReg, Barlow Twins): embeddings in, scalar terms out.

Legend: N images in this process's batch, W processes, V views, D embedding.

Statistics are those of the global batch of W*N images. As in `similarity`, a term's mean over the
processes is the term of the global batch, and the same is true for its gradient.

A process computes only its own R rows of a (D, D) matrix, about D / W, because these products in
float32 are a large part of a step. `sum_over_processes` adds the contributions of all rows, so
every process has the loss L of the full matrix. The gradient is also that of L. Let L_p be the part
of process p. All W processes have the sum of the parts, so its backward pass gives each part the
gradient W. The backward pass of `gather_with_grad` adds up W dL_p/dz over p, which is W dL/dz, and
the mean of DistributedDataParallel divides by W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.distributed import gather_with_grad, rank, world_size
from pretrain.losses.precision import full_precision

VARIANCE_EPSILON = 1e-4  # VICReg main_vicreg.py
BATCH_NORM_EPSILON = 1e-5  # torch's default, which Barlow's code uses


@full_precision
def invariance(z: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Returns the mean over `pairs` of the mean squared difference of two views; z (V, N, D)."""
    return torch.stack([F.mse_loss(z[a], z[b]) for a, b in pairs]).mean()


@full_precision
def variance_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns VICReg's two terms of each view alone (arXiv 2105.04906, equations 1 to 4); z (V, N,
    D).

    The variance term is a hinge at standard deviation 1, mean over dimensions and views. The
    covariance term is the sum of squared off-diagonal entries divided by D. It is *twice* the mean
    over views, so that two views give the authors' sum (main_vicreg.py; divisor: the global batch
    minus one). Each view counts once, even if it is in several pairs.
    """
    hinges, redundancies = [], []
    dim = z.shape[2]
    own = own_dimensions(dim)
    for view in z.unbind():
        rows = gather_with_grad(view)
        centred = rows - rows.mean(dim=0)
        covariance = columns(centred, own).T @ centred / (len(rows) - 1)
        deviation = torch.sqrt(covariance.diagonal(own.start) + VARIANCE_EPSILON)
        hinges.append(F.relu(1 - deviation).sum() / dim)
        redundancies.append(off_diagonal(covariance, own.start).square().sum() / dim)
    return sum_over_processes(torch.stack(hinges).mean(), 2 * torch.stack(redundancies).mean())


@full_precision
def barlow_pairs(
    z: Tensor, pairs: Sequence[tuple[int, int]], off_diagonal_weight: float
) -> dict[str, Tensor]:
    """Returns the loss of Barlow Twins (arXiv 2103.03230, equation 1), a mean over `pairs` of
    views; z (V, N, D).

    Returns the terms `on_diagonal` and `off_diagonal`, the second already weighted. Each view is
    batch-normalised without affine parameters over the global batch. It differs from the authors'
    main.py in one point: their all-reduce of the correlation passes no gradient, so W processes get
    1/W of the loss's gradient. Ours is the gradient of one process that has all images.
    """
    own = own_dimensions(z.shape[2])
    whitened = [batch_normalized(gather_with_grad(view)) for view in z.unbind()]
    on, off = [], []
    for a, b in pairs:
        correlation = columns(whitened[a], own).T @ whitened[b] / len(whitened[a])
        on.append((correlation.diagonal(own.start) - 1).square().sum())
        off.append(off_diagonal(correlation, own.start).square().sum())
    on_diagonal, redundancy = sum_over_processes(torch.stack(on).mean(), torch.stack(off).mean())
    return {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal_weight * redundancy}


def batch_normalized(rows: Tensor) -> Tensor:
    """Returns rows (N, D) with mean 0 and (biased) variance 1 in each column: a BN without
    parameters.
    """
    centred = rows - rows.mean(dim=0)
    return centred * torch.rsqrt(centred.square().mean(dim=0) + BATCH_NORM_EPSILON)


def own_dimensions(dim: int) -> range:
    """Returns the R of `dim` dimensions whose rows this process computes; R differs by at most
    one.
    """
    return range(rank() * dim // world_size(), (rank() + 1) * dim // world_size())


def columns(rows: Tensor, own: range) -> Tensor:
    """Returns the columns `own` of rows (N, D): (N, R).

    If `own` has all columns, it returns `rows` itself: the gradient of a slice would be a copy of
    the same size.
    """
    return rows if len(own) == rows.shape[1] else rows[:, own.start : own.stop]


def sum_over_processes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the sums of two scalars over the processes, on every process, differentiable."""
    sums = gather_with_grad(torch.stack([first, second])[None]).sum(dim=0)
    return sums[0], sums[1]


def off_diagonal(rows: Tensor, first: int = 0) -> Tensor:
    """Returns the entries (R * (D - 1),) of the rows `first`, `first + 1`, ... (R, D) of a (D, D)
    matrix that are not on its diagonal.
    """
    flat, period = rows.flatten(), rows.shape[1] + 1
    last = first + (len(rows) - 1) * period  # place of the last diagonal entry
    between = flat[first + 1 : last + 1].view(-1, period)[:, :-1].flatten()
    if len(rows) == rows.shape[1]:  # with all rows, nothing is before or after
        return between
    return torch.cat([flat[:first], between, flat[last + 1 :]])
