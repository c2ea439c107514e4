"""The work around the training steps: metrics, progress bar, checkpoints, each a `Callback`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain.common.collapse_statistics import feature_std
from pretrain.common.distributed import all_reduce_mean, barrier, is_main
from pretrain.common.logs import MetricsWriter, progress
from pretrain.common.run_files import CHECKPOINT
from pretrain.data.views_picture import save_view_panel
from pretrain.engine.collapse import warn_of_collapse
from pretrain.engine.loop import Callback, Training
from pretrain.engine.state import save_training


class Metrics(Callback):
    """Writes a row every N steps: mean loss and terms since the last row (over processes), learning
    rate, speed, progress. Warns once of collapsed features, for methods that can collapse."""

    def __init__(self, writer: MetricsWriter, every_steps: int, can_collapse: bool = False) -> None:
        self.writer = writer
        self.every_steps = every_steps
        self.can_collapse = can_collapse

    def start(self, training: Training) -> None:
        """Continues with the sums of a resumed run."""
        self._unlogged = training.unlogged

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Adds to the sums without waiting for the device; writes a row when it is due."""
        if outcome["taken"]:
            self._unlogged.add({"loss": outcome["loss"], **outcome["terms"]})
        if training.step % self.every_steps == 0 or training.step == training.total_steps:
            self._write(training, outcome["features"])

    def _write(self, training: Training, features: Tensor) -> None:
        before = self._unlogged
        if not before.count:  # every step since the last row was skipped
            return
        names = sorted(before.sums)
        means = all_reduce_mean(torch.stack([before.sums[name] for name in names]) / before.count)
        elapsed = training.seconds - before.seconds
        images = (training.step - before.step) * training.batch_size
        std = feature_std(features)
        if self.can_collapse and is_main():
            self.can_collapse = not warn_of_collapse(std, features.shape[1])
        self.writer.write(
            training.step,
            **dict(zip(names, means.tolist())),
            lr=training.lr_at(training.step - 1),
            epoch=training.step / training.loader.steps_per_epoch,
            images_per_s=images / max(elapsed, 1e-9),
            images_seen=training.images_seen,
            views_seen=training.views_seen,
            views_per_image=len(training.branches),
            seconds=training.seconds,
            gpu_seconds=training.gpu_seconds,
            skipped_steps=training.guard.skipped,
            batch_feature_std=std,
        )
        before.clear(training.step, training.seconds)

    def close(self) -> None:
        """Closes the files."""
        self.writer.close()


class ProgressBar(Callback):
    """Shows the steps done, the time left, images per second and the loss, on the main process."""

    def start(self, training: Training) -> None:
        """Opens the bar at the run's present step."""
        self._bar = progress(
            desc="pretrain",
            total=training.total_steps,
            initial=training.step,
            unit="step",
        )
        self._shown, self._step = time.monotonic(), training.step
        self._seconds = training.seconds

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Moves the bar; refreshes speed and loss about once a second."""
        if time.monotonic() - self._shown > 1.0:
            images = (training.step - self._step) * training.batch_size
            speed = images / max(training.seconds - self._seconds, 1e-9)
            loss = training.guard.last
            shown = {"images/s": f"{speed:.{0 if speed >= 10 else 1}f}", "loss": f"{loss:.3f}"}
            self._bar.set_postfix(shown, refresh=False)
            self._shown, self._step = time.monotonic(), training.step
            self._seconds = training.seconds
        self._bar.update(training.step - self._bar.n)

    def close(self) -> None:
        """Leaves the finished bar on the screen."""
        if hasattr(self, "_bar"):
            self._bar.close()


class ViewPanel(Callback):
    """Draws `views.png` from the first batch, if the folder does not have it yet."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "views.png"

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Draws with a separate generator, so that no training number depends on the picture."""
        if is_main() and not self.path.exists():
            save_view_panel(training.make_views, outcome["crops"], self.path, seed=training.seed)


class Checkpoint(Callback):
    """Writes `checkpoint.pth` every few epochs or steps, at the end, and when the run is asked to
    stop. It can also keep checkpoints by epoch. The one before stays as `checkpoint.prev.pth`.

    It is called after the callbacks that write rows, so the rows up to the checkpoint's step are on
    disk before the checkpoint.

    Args:
        writer: the writer of the rows.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        writer: MetricsWriter,
        *,
        every_epochs: int,
        every_steps: int = 0,
        keep_every_epochs: int = 0,
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.writer = writer
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self.keep_every_epochs = keep_every_epochs

    def step(self, training: Training, outcome: dict[str, Any]) -> None:
        """Writes when an epoch or a number of steps is complete."""
        if training.step == training.total_steps:
            return  # `end` writes it
        if self._due(training):
            self._save(training, CHECKPOINT)
        if due(training, self.keep_every_epochs):
            self._save(training, f"checkpoint_{training.epoch}.pth")

    def stop(self, training: Training) -> None:
        """Writes the checkpoint if `step` has not written it."""
        if not self._due(training):
            self._save(training, CHECKPOINT)
        barrier()  # if a process ended now, the others would end while they write

    def end(self, training: Training) -> None:
        """Writes the final checkpoint."""
        self._save(training, CHECKPOINT)

    def _due(self, training: Training) -> bool:
        return due(training, self.every_epochs) or _divides(self.every_steps, training.step)

    def _save(self, training: Training, name: str) -> None:
        self.writer.flush()
        save_training(training, self.facts, self.folder / name)


def due(training: Training, every_epochs: int) -> bool:
    """Returns whether a multiple of `every_epochs` epochs (0 = never) was completed by the last
    step.
    """
    return training.step_in_epoch == 0 and _divides(every_epochs, training.epoch)


def _divides(period: int, count: int) -> bool:
    return period > 0 and count % period == 0
