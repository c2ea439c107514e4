"""One epoch of training, and one pass over a test split.

Legend: N images of this process in a step, W processes, M test images, H heads, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from pretrain.common.distributed import (
    all_reduce_mean,
    distribute,
    gather_objects,
    rank,
    world_size,
)
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.resources import usable_workers
from pretrain.data.preprocess import Preprocess
from transfer.classification.crops import CropDataset, ImageTransform, collate
from transfer.classification.metrics import hits
from transfer.classification.splits import Split
from transfer.classification.training.images import Batch, TrainImages
from transfer.classification.training.model import Classifier
from transfer.classification.training.recipe import set_rates


@dataclass
class Trainer:
    """A classifier, what feeds it and what moves it.

    Attributes:
        model: on the device; schedule: step number -> the head's learning rate.
        norm_batch: images that a batch norm in training sees at once: the images of a process are
            taken in parts of at most so many, and their gradients added up. 0: all at once.
        chunk: images per forward pass of a frozen backbone, which moves no number.
        amp: bfloat16 autocast of the backbone on a GPU.
    """

    model: Classifier
    preprocess: Preprocess
    optimizer: Optimizer
    schedule: Callable[[int], float]
    norm_batch: int = 0
    chunk: int = 256
    amp: bool = True

    def __post_init__(self) -> None:
        self.trained = self.model.trained()
        self.wrapped = distribute(self.trained)
        self.device = next(self.model.parameters()).device

    def epoch(self, images: TrainImages, epoch: int, epochs: int) -> dict[str, float]:
        """Trains one epoch; {"loss": mean over its images and heads' sum, "lr": its last rate}.

        Raises FloatingPointError, with epoch and step, when a loss is not finite.
        """
        self.model.train()
        losses, seen, lr = 0.0, 0, 0.0
        first = epoch * images.steps_per_epoch
        desc = f"epoch {epoch + 1} of {epochs}"
        with progress(
            images.epoch(epoch), desc=desc, total=images.steps_per_epoch, leave=False
        ) as bar:
            for step, batch in enumerate(bar):
                lr = self.schedule(first + step)
                set_rates(self.optimizer, lr)
                loss = self.step(batch)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} at step {step + 1} of epoch {epoch + 1}, learning "
                        f"rate {lr:g}; lower SOLVER.LR_PER_256"
                    )
                losses, seen = losses + loss * batch.total, seen + batch.total
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        self._share_statistics()
        return {"loss": losses / seen, "lr": lr}

    def step(self, batch: Batch) -> float:
        """One optimizer step; returns the loss of the whole batch (before the step)."""
        self.optimizer.zero_grad(set_to_none=True)
        count = len(batch.labels)
        inputs = self._frozen_features(batch.images) if self.model.frozen else None
        parts = math.ceil(count / self.norm_batch) if self.norm_batch else 1
        total = torch.zeros((), device=self.device)
        for number, rows in enumerate(torch.arange(count).tensor_split(parts), start=1):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            waits = number < parts and self.wrapped is not self.trained
            with self.wrapped.no_sync() if waits else nullcontext():
                if inputs is not None:
                    logits = self.wrapped([values[part] for values in inputs])
                else:
                    with self._autocast():
                        logits = self.wrapped(self._prepare(batch.images[part]))
                # The mean over the global batch, whatever its share in this process: DDP divides
                # the sum of the processes' gradients by W.
                labels = batch.labels[part]
                loss = sum(F.cross_entropy(out.float(), labels, reduction="sum") for out in logits)
                loss = loss * (world_size() / batch.total)
                loss.backward()
            total += loss.detach()
        value = float(all_reduce_mean(total))
        if math.isfinite(value):
            self.optimizer.step()
        return value

    @torch.no_grad()
    def evaluate(
        self, split: Split, transform: ImageTransform, batch_size: int, num_workers: int
    ) -> Tensor:
        """Whether each image's label is its first, and among its five first: (M, H, 2) bool.

        The same on every process, in the split's order. Raises InputError for an unreadable image.
        """
        self.model.eval()
        mine = list(range(rank(), len(split), world_size()))
        crops = CropDataset(split, mine, transform)
        loader = DataLoader(
            crops,
            batch_size=batch_size,
            num_workers=usable_workers(num_workers),
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
        )
        parts, done = [torch.zeros(0, len(self.model.heads.names), 2, dtype=torch.bool)], 0
        with progress(loader, desc=f"testing on {split.name}", leave=False) as batches:
            for images in batches:
                if isinstance(images, str):
                    raise InputError(f"unreadable image in {split.name}: {images}")
                labels = split.labels[mine[done : done + len(images)]].to(self.device)
                with self._autocast():
                    logits = self.model(self._prepare(images.to(self.device, non_blocking=True)))
                parts.append(torch.stack([_hits(out, labels) for out in logits], dim=1).cpu())
                done += len(images)
        return _in_order(gather_objects(torch.cat(parts)))

    @torch.no_grad()
    def _frozen_features(self, images: Tensor) -> list[Tensor]:
        chunks = []
        for chunk in images.split(self.chunk):
            with self._autocast():
                chunks.append([out.float() for out in self.model.features(self._prepare(chunk))])
        return [torch.cat(parts) for parts in zip(*chunks)]

    def _prepare(self, images: Tensor) -> Tensor:
        prepared = self.preprocess.apply(images)
        return prepared.contiguous(memory_format=torch.channels_last)

    def _autocast(self) -> torch.autocast:
        on = self.amp and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on)

    def _share_statistics(self) -> None:
        """Batch-norm statistics of training are the first process's, as DDP keeps them."""
        if world_size() > 1:
            for buffer in self.trained.buffers():
                dist.broadcast(buffer, 0)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, K) -> (N, 2) bool: the label is first, among the first five."""
    return torch.stack([hits(logits, labels), hits(logits, labels, 5)], dim=1)


def _in_order(parts: list[Tensor]) -> Tensor:
    """Process r's images r, r + W, ... -> all in order."""
    whole = torch.empty(sum(map(len, parts)), *parts[0].shape[1:], dtype=parts[0].dtype)
    for start, part in enumerate(parts):
        whole[start :: len(parts)] = part
    return whole
