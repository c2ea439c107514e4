"""What changes while a model is fine-tuned, and its way to disk and back, for every task here.

In: a model, its optimiser, a run's folder. Out: periodic checkpoints, `model_final.pth`, and the
iteration to go on from. Every process calls these alike; the first one writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pretrain.common.checkpoint import rng_state, set_rng_state
from pretrain.common.distributed import barrier, gather_objects, is_main, rank, world_size
from transfer.checkpoints.weights import Weights
from transfer.training import files as model_files
from transfer.training.precision import Precision

logger = logging.getLogger(__name__)


class TrainingState:
    """Attributes: start_iter: the iteration to begin with, 0 unless restored."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        output: Path,
        *,
        weights: Weights,
        max_iter: int,
        precision: Precision | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        """Args: weights: whose facts travel with the model; precision: with its loss scale;
        classes: names that are written into the model's files."""
        self.classes = classes
        self.model, self.optimizer, self.precision = model, optimizer, precision
        self.output, self.weights, self.max_iter = output, weights, max_iter
        self.start_iter, self._seconds_before = 0, 0.0
        self._begin = time.perf_counter()

    def restore(self, load: Callable[[Mapping[str, Tensor]], object]) -> None:
        """Goes on from the folder's last checkpoint, if it has one.

        Args:
            load: puts a state_dict into the model.
        """
        path = model_files.last_checkpoint(self.output)
        if path is None:
            return
        state = model_files.load_training(path)
        load(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.precision is not None:
            self.precision.load_state_dict(state.get("grad_scaler", {}))
        self.start_iter = state["iteration"] + 1
        self._seconds_before = state["seconds"]
        if len(state["rng"]) == world_size():
            set_rng_state(state["rng"][rank()])
        else:
            logger.warning("%s was written by another number of processes", path)
        logger.info("resumed from %s at iteration %d", path, self.start_iter)

    def seconds(self) -> float:
        """Wall-clock seconds so far, those before a resume included."""
        return self._seconds_before + time.perf_counter() - self._begin

    def save(self, iteration: int) -> None:
        """Writes a checkpoint after `iteration`; every process takes part."""
        states = gather_objects(rng_state())
        if is_main():
            state = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "iteration": iteration,
                "rng": states,
                "seconds": self.seconds(),
            }
            if self.classes is not None:
                state["classes"] = list(self.classes)
            if self.precision is not None:
                state["grad_scaler"] = self.precision.state_dict()
            model_files.save_training(self.output, state)
        barrier()

    def finish(self) -> Path:
        """Writes model_final.pth."""
        if is_main():
            model_files.write_model(
                self.output,
                self.model.state_dict(),
                iteration=self.max_iter - 1,
                preprocess=self.weights.preprocess,
                architecture=self.weights.architecture,
                seconds=self.seconds(),
                classes=self.classes,
            )
        barrier()
        return self.output / model_files.MODEL_FILE
