"""A classifier in training: the loss of a step, one epoch of steps, one pass over a test split.

The loop itself is `transfer/training/loop.py`. Legend: N images of this process in a step, W
processes, M test images, H heads, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pretrain.common.device_copy import send
from pretrain.common.distributed import (
    all_reduce_mean,
    distribute,
    gather_objects,
    rank,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.lost_workers import Batches
from pretrain.common.precision import amp_dtype
from pretrain.common.resources import loader_processes
from pretrain.common.stop_signals import agreed, deferred, stop
from pretrain.data.preprocess import Preprocess
from transfer.classification.crops import CropDataset, ImageTransform, collate
from transfer.classification.metrics import hits
from transfer.classification.splits import Split
from transfer.classification.training.images import Batch, TrainImages
from transfer.classification.training.model import Classifier
from transfer.training.loop import add, steps
from transfer.training.precision import Precision
from transfer.training.sampler import rank_share


@dataclass(frozen=True)
class Part:
    """Is a part of a process's batch.

    Attributes:
        inputs: uint8 images (N, 3, S, S); with a frozen backbone the features of each head.
        weight: factor on the sum of the images' losses.
    """

    inputs: Any
    labels: Tensor
    weight: float


class Losses(nn.Module):
    """Computes the loss of all heads together on a part of a batch.

    Args:
        trained: module that returns the logits (N, K) of each head.
        prepare: maps a part's inputs to the input of `trained`.
    """

    def __init__(self, trained: nn.Module, prepare: Callable[[Any], Any]) -> None:
        super().__init__()
        self.trained, self.prepare = trained, prepare

    def forward(self, part: Part) -> dict[str, Tensor]:
        """Returns {"loss": weight times the cross-entropy, summed over images and heads}."""
        logits = self.trained(self.prepare(part.inputs))
        losses = [F.cross_entropy(out.float(), part.labels, reduction="sum") for out in logits]
        return {"loss": add(losses) * part.weight}


@dataclass
class EpochPart:
    """Describes the progress within an epoch.

    It has the number of steps, the sum of this process's losses, each times the images of its step,
    and the number of these images.
    """

    step: int = 0
    loss: float = 0.0
    seen: int = 0


@dataclass
class Trainer:
    """Holds a classifier with its data preparation, optimizer and schedule.

    Attributes:
        model: the classifier on the device; schedule: returns the head's learning rate at a step.
        norm_batch: number of images over which a batch norm in training computes its statistics: a
            process splits its images into parts of at most this size and adds up their gradients.
            0: all images at once.
        chunk: images per forward pass of a frozen backbone; it changes no result.
        amp: mixed precision of the backbone on a GPU, in the dtype of `amp_dtype`.
        done: progress in the current epoch.
        save: saves the trainer's state; called after a step at which the run is asked to end.
    """

    model: Classifier
    preprocess: Preprocess
    optimizer: Optimizer
    schedule: Callable[[int], float]
    norm_batch: int = 0
    chunk: int = 256
    amp: bool = True
    done: EpochPart = field(default_factory=EpochPart)
    save: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.trained = self.model.trained()
        frozen, self.device = self.model.frozen, next(self.model.parameters()).device
        self.losses = distribute(Losses(self.trained, _same if frozen else self._prepare))
        kind = self.device.type
        self.precision = Precision(amp_dtype(self.device) if self.amp else None, kind)
        # Heads on features of a frozen backbone compute in float32.
        self.step_precision = Precision(None, kind) if frozen else self.precision

    def epoch(self, images: TrainImages, epoch: int, epochs: int) -> dict[str, float]:
        """Trains one epoch, or the rest of it if `done` says so.

        Returns {"loss": sum over heads, averaged over the epoch's images, "lr": its last rate}.

        Raises:
            FloatingPointError: a loss is not finite; the message has the epoch and the step.
            Stopped: a process was asked to end, and `save` has saved the trainer.
        """
        self.model.train()
        done, count = self.done, images.steps_per_epoch
        first = epoch * count
        taken = steps(
            self.losses,
            batches=map(self.parts, images.epoch(epoch, done.step)),
            optimizer=self.optimizer,
            rate_at=self.schedule,
            iterations=range(first + done.step, first + count),
            precision=self.step_precision,
            mean=False,
            place=lambda step: (
                f"step {step - first + 1} of epoch {epoch + 1}, learning rate "
                f"{self.schedule(step):g}"
            ),
            remedy="lower SOLVER.LR_PER_256",
        )
        desc = f"epoch {epoch + 1} of {epochs}"
        bar = progress(taken, desc=desc, total=count, initial=done.step, leave=False)
        with deferred(), bar:
            for step in bar:
                total = images.total(done.step)
                done.loss, done.seen = done.loss + step.loss * total, done.seen + total
                done.step += 1
                bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
                if agreed() and self.save is not None:
                    self.save()
                    stop()
        self._share_statistics()
        # Not `torch.tensor`: the host would wait for its copy to the GPU.
        mean = torch.full((), done.loss / done.seen, dtype=torch.float64, device=self.device)
        mean = all_reduce_mean(mean)
        self.done = EpochPart()
        return {"loss": float(mean), "lr": self.schedule(first + count - 1)}

    def parts(self, batch: Batch) -> list[Part]:
        """Returns this process's batch in parts of at most `norm_batch` images."""
        images, labels, frozen = batch.images, batch.labels, self.model.frozen
        inputs = self._frozen_features(images) if frozen else images
        count = math.ceil(len(labels) / self.norm_batch) if self.norm_batch else 1
        # The mean over the global batch, for any share in this process: DDP divides the sum of the
        # processes' gradients by W.
        weight = world_size() / batch.total
        slices = [
            slice(int(rows[0]), int(rows[-1]) + 1)
            for rows in torch.arange(len(labels)).tensor_split(count)
        ]
        return [
            Part([v[rows] for v in inputs] if frozen else inputs[rows], labels[rows], weight)
            for rows in slices
        ]

    @torch.no_grad()
    def evaluate(
        self, split: Split, transform: ImageTransform, batch_size: int, num_workers: int
    ) -> Tensor:
        """Returns whether each image's label is top-1, and whether it is in top-5: (M, H, 2) bool.

        The result is the same on every process, in the split's order. Raises InputError for an
        unreadable image.
        """
        self.model.eval()
        mine = rank_share(len(split), rank(), world_size())
        crops = CropDataset(split, list(mine), transform)
        loader = DataLoader(
            crops,
            batch_size=batch_size,
            **loader_processes(num_workers),
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # a test does not change the global one: see `load`
        )
        parts, done = [torch.zeros(0, len(self.model.names), 2, dtype=torch.bool)], 0
        with progress(Batches(loader), desc=f"testing on {split.name}", leave=False) as batches:
            for images in batches:
                if isinstance(images, str):
                    raise InputError(
                        f"unreadable image in {split.name}: {images}; repair or remove it"
                    )
                rows = slice(mine.start + done, mine.start + done + len(images))
                labels = send(split.labels[rows], self.device)
                with self.precision.autocast():
                    logits = self.model(self._prepare(images.to(self.device, non_blocking=True)))
                parts.append(torch.stack([_hits(out, labels) for out in logits], dim=1).cpu())
                done += len(images)
        return torch.cat(gather_objects(torch.cat(parts)))

    @torch.no_grad()
    def _frozen_features(self, images: Tensor) -> list[Tensor]:
        chunks = []
        for chunk in images.split(self.chunk):
            with self.precision.autocast():
                chunks.append([out.float() for out in self.model.features(self._prepare(chunk))])
        return [torch.cat(parts) for parts in zip(*chunks)]

    def _prepare(self, images: Tensor) -> Tensor:
        prepared = self.preprocess.apply(images)
        return prepared.contiguous(memory_format=torch.channels_last)

    def _share_statistics(self) -> None:
        """Copies the first process's batch-norm statistics to all processes, as DDP keeps them."""
        if world_size() > 1:
            for buffer in self.trained.buffers():
                dist.broadcast(buffer, 0)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """Maps logits (N, K) to (N, 2) bool: the label is top-1, the label is in top-5."""
    return torch.stack([hits(logits, labels), hits(logits, labels, 5)], dim=1)


def _same(inputs: Any) -> Any:
    return inputs
