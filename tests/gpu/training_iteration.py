"""An iteration of `transfer/training` as the action of a case of the rehearsal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fvcore.common.config import CfgNode

from tests.gpu.counting import Action
from transfer.training.build import make_schedule
from transfer.training.loop import micro_batches, steps
from transfer.training.state import TrainingState


def iteration(
    cfg: CfgNode, run: TrainingState, batches: Iterator[list[dict[str, Any]]], images: int
) -> Action:
    """The next iteration of a run on each call; `images` is a process's batch."""
    taken = steps(
        run.model,
        batches=(micro_batches(batch, 1) for batch in batches),
        optimizer=run.optimizer,
        rate_at=make_schedule(cfg).factor,
        iterations=range(cfg.SOLVER.MAX_ITER),
        precision=run.precision,
    )
    return Action(lambda: next(taken), images, repeated=True)
