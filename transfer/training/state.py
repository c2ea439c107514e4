"""The state of a model in fine-tuning, and how it is saved and restored, for every task.

`gather_state` and `restore_state` handle the content that all training checkpoints have: trained
weights, optimizer, random states of all processes. `TrainingState` keeps it in files by iteration,
as Detectron2 does. All processes call these functions; the first one writes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from torch import Tensor, nn
from torch.optim import Optimizer

from pretrain.common.checkpoint import rng_state, set_rng_state
from pretrain.common.distributed import barrier, gather_objects, is_main, rank, world_size
from pretrain.data.fingerprint import Fingerprint, check_training_data
from pretrain.optim.restored import restore_optimizer
from transfer.checkpoints.weights import Weights
from transfer.training import files as model_files
from transfer.training.precision import Precision

logger = logging.getLogger(__name__)

Load = Callable[[Mapping[str, Tensor]], object]  # loads a state_dict into a model


class HasRunning(Protocol):
    """Is a model that keeps numbers of its training from step to step, each process its own."""

    running: dict[str, float]


def gather_state(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Returns what a run needs to continue bit for bit; every process must call it."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": gather_objects(rng_state()),
        **({"running": gather_objects(dict(model.running))} if has_running(model) else {}),
    }


def has_running(model: nn.Module) -> TypeGuard[HasRunning]:
    """Returns whether a model has numbers of its training that its state_dict does not hold."""
    return hasattr(model, "running")


def restore_state(
    state: Mapping[str, Any], path: Path, load: Load, model: nn.Module, optimizer: Optimizer
) -> None:
    """Restores what `gather_state` returned; `path` is the file from which it was read."""
    load(state["model"])
    restore_optimizer(optimizer, state["optimizer"], path)
    if len(state["rng"]) == world_size():
        set_rng_state(state["rng"][rank()])
        if has_running(model) and "running" in state:
            model.running.update(state["running"][rank()])
    else:
        logger.warning("%s was written by a different number of processes", path)


class TrainingState:
    """Holds a model in training by iterations.

    Attributes:
        start_iter: first iteration to run, 0 unless restored.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        output: Path,
        *,
        weights: Weights,
        max_iter: int,
        precision: Precision | None = None,
        classes: Sequence[str] | None = None,
        data: Fingerprint | None = None,
    ) -> None:
        """
        Args:
            data: fingerprint of the training images; None: it is not compared.
            weights: the initial weights; their facts are stored with the model.
            precision: precision of the steps, with its loss scale.
            classes: names of the classes, written into the model's files.
        """
        self.classes, self.data = classes, data
        self.model, self.optimizer = model, optimizer
        self.precision = precision or Precision()
        self.output, self.weights, self.max_iter = output, weights, max_iter
        self.start_iter, self._seconds_before = 0, 0.0
        self._begin = time.perf_counter()

    def restore(self, load: Load) -> None:
        """Continues from the folder's last checkpoint, or from the previous one if it is damaged.

        Without a checkpoint it does nothing. Raises InputError if the checkpoint was trained on
        different data.
        """
        found = model_files.load_newest_training(self.output)
        if found is None:
            return
        state, path = found
        if self.data is not None:
            check_training_data(path, state.get("data"), self.data)
        restore_state(state, path, load, self.model, self.optimizer)
        self.precision.load_state_dict(state.get("grad_scaler", {}))
        self.start_iter = state["iteration"] + 1
        self._seconds_before = state["seconds"]
        logger.info("resumed from %s at iteration %d", path, self.start_iter)

    def seconds(self) -> float:
        """Returns the wall-clock seconds so far, including those before a resume."""
        return self._seconds_before + time.perf_counter() - self._begin

    def save(self, iteration: int) -> None:
        """Writes a checkpoint after `iteration`, and keeps the previous one.

        Every process must call it.
        """
        state = {
            **gather_state(self.model, self.optimizer),
            "iteration": iteration,
            "seconds": self.seconds(),
            "grad_scaler": self.precision.state_dict(),
        }
        if self.data is not None:
            state["data"] = self.data.to_dict()
        if self.classes is not None:
            state["classes"] = list(self.classes)
        if is_main():
            model_files.save_training(self.output, state)
        barrier()

    def finish(self) -> model_files.Fitted:
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
        return model_files.Fitted(self.output / model_files.MODEL_FILE, self.seconds())
