"""The choice of a learning rate on held-out training images, and checks of SGD's settings.

The grid of rates is extended if the best rate is at its edge. All protocols that train use this
module: `linear` on features, and the protocols on random crops.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pretrain.common.errors import InputError

logger = logging.getLogger(__name__)
MAX_EXTENSIONS = 3
STEP = 3.0  # factor between neighbours beyond the edge


def check_rates(lrs: Sequence[float]) -> None:
    """Raises InputError unless SOLVER.LR_PER_256 lists rates above 0."""
    if not lrs or not all(isinstance(lr, (int, float)) and 0 < lr < float("inf") for lr in lrs):
        raise InputError(
            f"SOLVER.LR_PER_256 {tuple(lrs)} must list rates above 0 (1.0e-3 in YAML, where 1e-3 "
            "is read as text)"
        )


def check_solver(epochs: int, batch_size: int, momentum: float, weight_decay: float) -> None:
    """Raises InputError, naming the key, for settings with which no step can be taken."""
    if epochs < 1 or batch_size < 1:
        raise InputError("SOLVER.EPOCHS and SOLVER.BATCH_SIZE must be 1 or more")
    if not 0 <= momentum < 1:
        raise InputError(f"SOLVER.MOMENTUM {momentum} must be from 0 to below 1")
    if not 0 <= weight_decay < float("inf"):
        raise InputError(f"SOLVER.WEIGHT_DECAY {weight_decay} must be 0 or more")


class Choice(NamedTuple):
    """Says for messages which key is the share of held-out images, and what they choose."""

    key: str
    chooses: str
    remedy: str


OF_RATES = Choice("PROTOCOL.HOLDOUT", "the learning rate", "set SOLVER.LR_PER_256 to a single rate")
OF_PENALTY = Choice(
    "LOGISTIC.HOLDOUT",
    "the penalty",
    "add images of this class, or set LOGISTIC.VAL to validation images without it",
)


def check_holdout(
    labels: Tensor, share: float, names: Sequence[str] = (), choice: Choice = OF_RATES
) -> None:
    """Raises InputError for a share outside (0, 1), or a class with a single image.

    Args:
        names: names of the classes, for the message.
    """
    if not 0 < share < 1:
        raise InputError(f"{choice.key} {share} must be between 0 and 1")
    single = (labels.bincount() == 1).nonzero()
    if len(single):
        label = int(single[0])
        raise InputError(
            f"class {repr(names[label]) if names else label} has one training image: none is left "
            f"for choosing {choice.chooses}; {choice.remedy}"
        )


def split_holdout(
    labels: Tensor,
    share: float,
    generator: torch.Generator,
    names: Sequence[str] = (),
    choice: Choice = OF_RATES,
) -> tuple[Tensor, Tensor]:
    """Returns the indices of the images that are kept, and of those that are held out.

    A share of each class's images is held out, at least one image. Raises InputError as
    `check_holdout` does.
    """
    check_holdout(labels, share, names, choice)
    kept, held = [], []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        order = members[torch.randperm(len(members), generator=generator).to(members.device)]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.append(order[:count])
        kept.append(order[count:])
    return torch.cat(kept), torch.cat(held)


def search(
    lrs: Sequence[float], score: Callable[[list[float]], Sequence[float]]
) -> tuple[float, dict[float, float]]:
    """Returns the best learning rate, and {learning rate: its score} sorted by rate.

    If the best rate is at the edge and beats its neighbour, the grid is extended there by a factor
    of 3, up to 3 times. If rates have equal scores, the smaller rate wins.

    Args:
        score: maps learning rates to their scores (held-out top-1 in percent; higher is better).
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
    """Returns the content of selection.json: the choice, all scores, rates added to the grid."""
    return {
        "lr_per_256": best,
        "held_out_top1": {f"{lr:g}": value for lr, value in scores.items()},
        "lr_per_256_added": [lr for lr in scores if lr not in given],
    }


def _beyond_edge(best: float, scores: dict[float, float]) -> float | None:
    """Returns the next rate to try; None unless `best` is at the edge and beats its neighbour."""
    order = sorted(scores)
    if len(order) < 2 or best not in (order[0], order[-1]):
        return None
    neighbour = order[1] if best == order[0] else order[-2]
    if scores[best] == scores[neighbour]:
        return None
    return best / STEP if best == order[0] else best * STEP
