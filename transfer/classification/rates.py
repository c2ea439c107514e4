"""The choice of a learning rate from a grid that grows where its best lies at an edge; the checks
of what SGD and LARS are told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pretrain.common.errors import InputError

logger = logging.getLogger(__name__)
MAX_EXTENSIONS = 3
STEP = 3.0  # between neighbours beyond the edge


def check_rates(lrs: Sequence[float]) -> None:
    """Raises InputError unless SOLVER.LR_PER_256 lists rates above 0."""
    if not lrs or not all(isinstance(lr, (int, float)) and 0 < lr < float("inf") for lr in lrs):
        raise InputError(
            f"SOLVER.LR_PER_256 {tuple(lrs)} must list rates above 0 (1.0e-3 in YAML, where 1e-3 "
            "is a text)"
        )


def check_momentum(momentum: float, weight_decay: float) -> None:
    """Raises InputError, naming the key, for what no step can be made with."""
    if not 0 <= momentum < 1:
        raise InputError(f"SOLVER.MOMENTUM {momentum} must be from 0 to below 1")
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"SOLVER.WEIGHT_DECAY {weight_decay} must be 0 or more")


def search(
    lrs: Sequence[float], score: Callable[[list[float]], Sequence[float]]
) -> tuple[float, dict[float, float]]:
    """Returns (the best learning rate, {learning rate: its score}), sorted by rate.

    A best value at the edge that beats its neighbour extends the grid there by a factor of 3, up to
    3 times. Of equal scores the smaller rate wins.

    Args:
        score: learning rates -> their scores, higher is better (held-out top-1 percent).
    """
    scores: dict[float, float] = {}
    pending = sorted(lrs)
    for extension in range(MAX_EXTENSIONS + 1):
        scores |= dict(zip(pending, score(pending)))
        best = min(scores, key=lambda lr: (-scores[lr], lr))
        beyond = _beyond_edge(best, scores)
        if beyond is None or extension == MAX_EXTENSIONS:
            break
        pending = [beyond]
    if beyond is not None:
        logger.warning("the chosen learning rate %g is at the edge of %s", best, sorted(scores))
    return best, dict(sorted(scores.items()))


def selection_notes(
    best: float, scores: dict[float, float], given: Sequence[float]
) -> dict[str, object]:
    """What selection.json says of a search: the choice, all scores, what was added to the grid."""
    return {
        "lr_per_256": best,
        "held_out_top1": {f"{lr:g}": value for lr, value in scores.items()},
        "lr_per_256_added": [lr for lr in scores if lr not in given],
    }


def _beyond_edge(best: float, scores: dict[float, float]) -> float | None:
    """The next learning rate to try: None unless `best` is at the edge and beats its neighbour."""
    order = sorted(scores)
    if len(order) < 2 or best not in (order[0], order[-1]):
        return None
    neighbour = order[1] if best == order[0] else order[-2]
    if scores[best] == scores[neighbour]:
        return None
    return best / STEP if best == order[0] else best * STEP
