"""All epochs of a training run: each is trained, tested and saved, and a run can be resumed.

The file `training.pth` has what a run needs to continue bit for bit from its last epoch, or from
the step at which it was asked to end: trained weights, optimizer, random-number states, and the
results so far. `training.prev.pth` is the file from the save before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from pretrain.common.checkpoint import atomic_write, load_torch_file, previous_of, read_newest
from pretrain.common.distributed import barrier, gather_objects, is_main, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.loggers import Loggers
from pretrain.common.logs import progress
from pretrain.common.stop_signals import asked, deferred, stop
from pretrain.data.fingerprint import Fingerprint, check_training_data
from transfer.classification.training.images import TrainImages
from transfer.classification.training.loop import EpochPart, Trainer
from transfer.classification.training.model import changed_tensors
from transfer.training.state import gather_state, restore_state

logger = logging.getLogger(__name__)
STATE_FILE = "training.pth"


@dataclass
class Progress:
    """Says what a run has done so far.

    Attributes:
        epochs: number of finished epochs; rows: one per epoch for curves.json.
        best: for each head {"epoch", "top1", "top5"} of its highest top-1.
        views: number of images used in training and tests; seconds: wall-clock time; before: the
            part of `seconds` that was spent before the run was resumed.
    """

    epochs: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, dict[str, float]] = field(default_factory=dict)
    views: int = 0
    seconds: float = 0.0
    before: float = 0.0


def fit(
    trainer: Trainer,
    images: TrainImages,
    *,
    epochs: int,
    test: Callable[[], Tensor],
    eval_period: int,
    state: Path,
    facts: Mapping[str, str | float],
    resume: bool,
    frozen_state: Mapping[str, Tensor],
    data: Fingerprint | None = None,
    loggers: str = "",
    desc: str = "training",
) -> tuple[Progress, Tensor]:
    """Trains to the last epoch; returns the progress, and the last test (M, H, 2).

    Args:
        test: one pass over the test images (see `Trainer.evaluate`).
        eval_period: epochs between tests. The last epoch is always tested; 0: only the last epoch.
        state: folder of `training.pth`.
        facts: what identifies the run; a file with different facts raises an error.
        resume: continue from the file, if there is one.
        data: fingerprint of the training images; a file with different data raises an error. None:
            it is not compared.
        loggers: names of `pretrain.common.loggers` with commas, which get each epoch's row.
        frozen_state: the checkpoint's tensors, which a frozen backbone must still have.

    Raises:
        InputError: the file was written by a different run.
        FloatingPointError: the loss is not finite.
        RuntimeError: the frozen backbone has changed.
    """
    file = state / STATE_FILE
    done = _restore(trainer, file, facts, data) if resume else Progress()
    hits: Tensor | None = None
    shown = Loggers(loggers if is_main() else "", state, done.epochs or -1)
    with closing(shown), deferred(), progress(
        total=epochs, initial=done.epochs, desc=desc, unit="epoch"
    ) as bar:
        for epoch in range(done.epochs, epochs):
            start = time.perf_counter()

            def save(start: float = start) -> None:
                done.seconds += time.perf_counter() - start
                _save(trainer, file, facts, done, data)

            trainer.save = save
            row: dict[str, float] = {"step": epoch + 1, **trainer.epoch(images, epoch, epochs)}
            _check_frozen(trainer, frozen_state)
            done.epochs, done.views = epoch + 1, done.views + images.used
            hits = None
            if epoch + 1 == epochs or (eval_period and (epoch + 1) % eval_period == 0):
                hits = test()
                done.views += len(hits)
                row |= _note_test(trainer.model.names, hits, epoch + 1, done.best)
            done.rows.append(row)
            shown.write(epoch + 1, {name: value for name, value in row.items() if name != "step"})
            done.seconds += time.perf_counter() - start
            _save(trainer, file, facts, done, data)
            if asked() and epoch + 1 < epochs:  # during the test
                stop()
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in row.items() if k != "step"})
    if hits is None:  # a finished run was resumed
        hits = test()
    return done, hits


def metric_name(head: str, metric: str) -> str:
    """Returns `top1`, or `res5_top1` if there are several heads."""
    return f"{head}_{metric}" if head else metric


def percentages(hits: Tensor) -> tuple[list[float], list[float]]:
    """Returns top-1 and top-5 of each head, in percent, from (M, H, 2) bool."""
    top1, top5 = (100.0 * hits.sum(dim=0).double() / len(hits)).T.tolist()
    return top1, top5


def _note_test(
    heads: list[str], hits: Tensor, epoch: int, best: dict[str, dict[str, float]]
) -> dict[str, float]:
    row: dict[str, float] = {}
    for head, top1, top5 in zip(heads, *percentages(hits)):
        row |= {metric_name(head, "top1"): top1, metric_name(head, "top5"): top5}
        if head not in best or top1 > best[head]["top1"]:
            best[head] = {"epoch": epoch, "top1": top1, "top5": top5}
    return row


def _check_frozen(trainer: Trainer, state: Mapping[str, Tensor]) -> None:
    changed = changed_tensors(trainer.model.trunk, state) if trainer.model.frozen else []
    if changed:
        raise RuntimeError(
            f"the frozen backbone has changed: {len(changed)} tensors differ from the checkpoint, "
            f"for example {changed[0]}"
        )


def _save(
    trainer: Trainer,
    file: Path,
    facts: Mapping[str, Any],
    done: Progress,
    data: Fingerprint | None,
) -> None:
    content = {
        **gather_state(trainer.trained, trainer.optimizer),
        "facts": dict(facts),
        "progress": vars(done),
        **({} if data is None else {"data": data.to_dict()}),
        "part": gather_objects(vars(trainer.done)),
    }
    if is_main():
        atomic_write(file, lambda handle: torch.save(content, handle), keep_previous=True)
    barrier()


def _restore(
    trainer: Trainer, file: Path, facts: Mapping[str, Any], data: Fingerprint | None
) -> Progress:
    """Returns the progress of finished epochs, and tells the trainer about an unfinished one."""
    present = [path for path in (file, previous_of(file)) if path.is_file()]
    if not present:
        return Progress()
    content, file = read_newest(present, load_torch_file)
    if data is not None:
        check_training_data(file, content.get("data"), data)
    if content["facts"] != dict(facts):
        other = [key for key in facts if content["facts"].get(key) != facts[key]]
        raise InputError(
            f"{file} was written by a different run (its {', '.join(other)} differ); choose "
            "another --output"
        )
    trained = trainer.trained
    restore_state(content, file, trained.load_state_dict, trained, trainer.optimizer)
    done = Progress(**content["progress"])
    done.before = done.seconds
    trainer.done = _own_part(content.get("part", []))
    steps = f" and {trainer.done.step} steps" if trainer.done.step else ""
    logger.info("%s: continued after epoch %d%s", file, done.epochs, steps)
    return done


def _own_part(parts: list[dict[str, Any]]) -> EpochPart:
    """Returns this process's part, or the mean of all if the number of processes has changed."""
    if not parts:  # an older version wrote it
        return EpochPart()
    if len(parts) == world_size():
        return EpochPart(**parts[rank()])
    return EpochPart(**{**parts[0], "loss": mean(part["loss"] for part in parts)})
