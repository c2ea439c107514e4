"""Statistics of features that reveal a collapse. z is (N, D)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def feature_std(z: Tensor) -> float:
    """Returns the mean over dimensions of the standard deviation of the L2-normalised rows.

    It is near 1/sqrt(D) for evenly spread features, and 0 after a collapse (Chen and He 2021,
    SimSiam).
    """
    return feature_std_tensor(z).item()


def feature_std_tensor(z: Tensor) -> Tensor:
    """Returns `feature_std` as a scalar on the device of z, without waiting for a GPU."""
    return normalize(z.float(), dim=1).std(dim=0).mean()


def effective_rank(z: Tensor) -> float:
    """Returns exp(entropy) of `singular_values` (Roy, Vetterli 2007); NaN if these are."""
    return torch.special.entr(singular_values(z)).sum().exp().item()


def singular_values(z: Tensor) -> Tensor:
    """Returns the singular values of the centred features as shares of their sum: min(N, D),
    decreasing.

    They are NaN if features are not finite: a run that diverged says so by its loss, in one line.
    """
    centred = z.double() - z.double().mean(dim=0)
    try:
        share = torch.linalg.svdvals(centred)
    except torch.linalg.LinAlgError:
        return centred.new_full((min(centred.shape),), float("nan"))
    return share / share.sum().clamp_min(torch.finfo(share.dtype).tiny)
