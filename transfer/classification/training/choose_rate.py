"""Chooses the learning rate by full runs on a part of the training images, one after the other."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.common.checkpoint import atomic_write_text, previous_of
from pretrain.common.distributed import barrier, is_main
from transfer.classification.rates import search
from transfer.classification.training.fit import STATE_FILE, Progress, percentages
from transfer.training.files import read_tried

logger = logging.getLogger(__name__)
FILE = "rates.json"


def choose_rate(
    lrs: Sequence[float],
    run: Callable[[float, Path], tuple[Progress, Tensor]],
    folder: Path,
    *,
    identity: str,
    resume: bool,
) -> tuple[float, dict[float, float], list[Progress]]:
    """Returns (the best rate, {rate: held-out top-1 percent}, the progress of each run).

    A rate at which the loss is not finite scores 0. Finished runs are kept in `rates.json`, and a
    resumed trial does not repeat them.

    Args:
        run: takes a rate and the folder of its state; returns its progress, and its last test (M,
            H, 2) on held-out images; if there are several heads, the last one counts.
        identity: identity of protocol, weights and seed; a file with a different one is not read.
    """
    file = folder / FILE
    stored = read_tried(file) if resume else {}
    stored = stored if stored.pop("identity", None) == identity else {}
    stored = {key: entry for key, entry in stored.items() if _is_complete(entry)}
    tried: list[Progress] = []

    def score(lr: float) -> float:
        key = f"{lr:g}"
        if key in stored:
            tried.append(Progress(views=stored[key]["views"], before=stored[key]["seconds"]))
            return stored[key]["top1"]
        top1, done = 0.0, Progress()
        try:
            done, hits = run(lr, folder / f"lr_{key}")
            top1 = percentages(hits)[0][-1]
            logger.info("learning rate %s: top-1 %.2f on held-out images", key, top1)
        except FloatingPointError as error:
            logger.warning("learning rate %s: %s", key, error)
        tried.append(done)
        stored[key] = {"top1": top1, "views": done.views, "seconds": done.seconds}
        if is_main():
            text = json.dumps({"identity": identity, **stored}, indent=1)
            atomic_write_text(file, text + "\n")
            state = folder / f"lr_{key}" / STATE_FILE
            for path in (previous_of(state), state):
                path.unlink(missing_ok=True)
        barrier()
        return top1

    best, scores = search(lrs, lambda rates: [score(lr) for lr in rates])
    return best, scores, tried


def _is_complete(entry: Any) -> bool:
    """Returns whether a rate's entry in the file has the types that `choose_rate` writes."""
    return isinstance(entry, dict) and all(
        type(entry.get(name)) in (int, float) and math.isfinite(entry[name])
        for name in ("top1", "views", "seconds")
    )
