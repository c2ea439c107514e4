"""Features that hardly differ between images: their statistics in, a warning out."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

# Our choice: untrained ResNets have 0.1 to 0.2 of 1 / sqrt(D), trained ones 0.3 and more.
COLLAPSED_STD = 0.02  # of 1 / sqrt(D)
COLLAPSED_RANK = 2.0


def warn_of_collapse(std: float, dim: int, rank: float | None = None) -> bool:
    """Logs a warning, and returns True, where features (N, dim) have collapsed.

    Args:
        std: `feature_std` of the features.
        rank: their `effective_rank`, where it is known.
    """
    healthy = dim**-0.5
    if std >= COLLAPSED_STD * healthy and (rank is None or rank >= COLLAPSED_RANK):
        return False
    known = "" if rank is None else f", their effective rank {rank:.1f} of {dim}"
    logger.warning(
        "the features have collapsed: their std is %.2g (%.2g when spread evenly)%s; a lower "
        "SOLVER.LR_PER_256 or a longer warmup may help",
        std,
        healthy,
        known,
    )
    return True
