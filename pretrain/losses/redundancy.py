"""Losses against redundant dimensions (VICReg, Barlow Twins): embeddings in, scalar terms out.

Legend: N images in this process's batch, W processes, V views, D embedding.

Statistics are those of the global batch of W*N images. As in `similarity`, the mean of a term over
the processes, and of its gradient, is that of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.distributed import gather_with_grad
from pretrain.losses.precision import full_precision

VARIANCE_EPSILON = 1e-4  # VICReg main_vicreg.py
BATCH_NORM_EPSILON = 1e-5  # torch's default, which Barlow's code has


@full_precision
def invariance(z: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Mean over `pairs` of the mean squared difference of two views; z (V, N, D)."""
    return torch.stack([F.mse_loss(z[a], z[b]) for a, b in pairs]).mean()


@full_precision
def variance_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """VICReg's two terms of each view alone (arXiv 2105.04906, equations 1 to 4); z (V, N, D).

    Variance: hinge at standard deviation 1, mean over dimensions and views. Covariance: squared
    off-diagonal entries divided by D, *twice* the mean over views, so that two views have the
    authors' sum (main_vicreg.py; divisor: the global batch less one). Each view counts once, in
    however many pairs it is.
    """
    hinges, redundancies = [], []
    for view in z.unbind():
        rows = gather_with_grad(view)
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / (len(rows) - 1)
        deviation = torch.sqrt(covariance.diagonal() + VARIANCE_EPSILON)
        hinges.append(F.relu(1 - deviation).mean())
        redundancies.append(off_diagonal(covariance).square().sum() / z.shape[2])
    return torch.stack(hinges).mean(), 2 * torch.stack(redundancies).mean()


@full_precision
def barlow_pairs(
    z: Tensor, pairs: Sequence[tuple[int, int]], off_diagonal_weight: float
) -> dict[str, Tensor]:
    """Barlow Twins (arXiv 2103.03230, equation 1), mean over `pairs` of views; z (V, N, D).

    Returns the terms `on_diagonal` and `off_diagonal`, the second already weighted. Each view is
    batch-normalised without affine parameters over the global batch. Differs from the authors'
    main.py in one point: their all-reduce of the correlation passes no gradient, so that W
    processes get 1/W of the loss's gradient; this is the gradient of one process with all images.
    """
    whitened = [batch_normalized(gather_with_grad(view)) for view in z.unbind()]
    on, off = [], []
    for a, b in pairs:
        correlation = whitened[a].T @ whitened[b] / len(whitened[a])
        on.append((correlation.diagonal() - 1).square().sum())
        off.append(off_diagonal(correlation).square().sum())
    return {
        "on_diagonal": torch.stack(on).mean(),
        "off_diagonal": off_diagonal_weight * torch.stack(off).mean(),
    }


def batch_normalized(rows: Tensor) -> Tensor:
    """Rows (N, D) with mean 0 and (biased) variance 1 in each column, as an affine-free BN."""
    centred = rows - rows.mean(dim=0)
    return centred * torch.rsqrt(centred.square().mean(dim=0) + BATCH_NORM_EPSILON)


def off_diagonal(square: Tensor) -> Tensor:
    """The entries (D * (D - 1),) of a (D, D) matrix that are not on its diagonal."""
    size = square.shape[0]
    return square.flatten()[:-1].view(size - 1, size + 1)[:, 1:].flatten()
