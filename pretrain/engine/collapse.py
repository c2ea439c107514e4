"""Features that hardly differ between images: their statistics in, a warning out."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)

# Our choice. In units of 1 / sqrt(D), untrained ResNets have 0.1 to 0.2, trained ones 0.3 or more.
COLLAPSED_STD = 0.02  # in units of 1 / sqrt(D)
COLLAPSED_RANK = 2.0


def warn_of_collapse(std: float, dim: int, rank: float | None = None) -> bool:
    """Logs a warning and returns True if features (N, dim) have collapsed.

    Args:
        std: `feature_std` of the features.
        rank: their `effective_rank`, if it is known.
    """
    healthy = dim**-0.5
    if std >= COLLAPSED_STD * healthy and (rank is None or rank >= COLLAPSED_RANK):
        return False
    known = "" if rank is None else f", their effective rank {rank:.1f} of {dim}"
    logger.warning(
        "the features have collapsed: their std is %.2g (%.2g if spread evenly)%s; a lower "
        "SOLVER.LR_PER_256 or a longer warmup may help",
        std,
        healthy,
        known,
    )
    return True
