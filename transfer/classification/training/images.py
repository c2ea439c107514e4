"""Makes batches of random crops of a split for training: (images, labels) on the device.

Order, crops and flips depend only on (seed, epoch, image), not on the number of workers or
processes; several processes use disjoint parts of the same global batches.
Legend: N images of this process in a batch, S side of the crop in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pretrain.common.distributed import rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.resources import usable_workers
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ImageDataset
from pretrain.data.loader import CropLoader
from transfer.classification.splits import Split

logger = logging.getLogger(__name__)
FLIPS = 1  # separates the random draws of an epoch's flips from those of its order


@dataclass(frozen=True)
class Batch:
    """Is a batch of this process, on the device.

    `images` are uint8 (N, 3, S, S) in RGB, `labels` (N,); `total` is the number of images of this
    step in all processes together.
    """

    images: Tensor
    labels: Tensor
    total: int


class TrainImages:
    """Makes random resized crops and flips of a split, epoch by epoch.

    Args:
        batch_size: images per step, in all processes together.
        drop_last: leave out the images after the last full batch of an epoch.
        min_share: a last batch that gives a process fewer images than this is always left out
            (batch norm in training needs 2).

    Raises:
        InputError: the batch does not divide among the processes, or the images do not fill it.
    """

    def __init__(
        self,
        split: Split,
        *,
        crop: CropSpec,
        flip_prob: float,
        batch_size: int,
        drop_last: bool,
        min_share: int = 1,
        num_workers: int,
        seed: int,
        device: torch.device,
    ) -> None:
        check_batch(batch_size, world_size())
        self.count, self.batch_size, self.device = len(split), batch_size, device
        self.flip_prob, self.seed = flip_prob, seed
        rest = self.count % batch_size
        self.loader = CropLoader(
            _Labelled(split),
            crops=[crop],
            batch_size=batch_size // world_size(),
            num_workers=usable_workers(num_workers),
            seed=seed,
            rank=rank(),
            world_size=world_size(),
            drop_last=drop_last or rest < min_share * world_size(),
        )
        self.steps_per_epoch = self.loader.steps_per_epoch
        self.used = min(self.count, self.steps_per_epoch * batch_size)  # images per epoch

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yields the batches of an epoch, starting at step `start_step`; both count from 0."""
        draws = np.random.default_rng((self.seed, epoch, FLIPS)).random(self.count)
        flips = torch.from_numpy(draws < self.flip_prob)
        for step, loaded in enumerate(self.loader.epoch(epoch, start_step), start_step):
            flip = flips[loaded.index].to(self.device, non_blocking=True)
            batch = loaded.to(self.device)
            images = batch.crops[0]
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
            yield Batch(images, batch.labels, self.total(step))

    def total(self, step: int) -> int:
        """Returns the images in a step of an epoch (counted from 0), in all processes together."""
        return min(self.batch_size, self.count - step * self.batch_size)


def check_batch(batch_size: int, processes: int) -> None:
    """Raises InputError unless the global batch divides among the processes."""
    if batch_size % processes:
        raise InputError(
            f"SOLVER.BATCH_SIZE {batch_size} is not a multiple of {processes} processes; set it to "
            "a multiple"
        )


class _Labelled(ImageDataset):
    """A split in the form of a data set, as the pretraining loader reads it."""

    def __init__(self, split: Split) -> None:
        self.images = split.images
        self.labels = split.labels.numpy()
        self.classes = list(split.classes)

    def read(self, index: int) -> Image.Image:
        return self.images.read(index)

    def name(self, index: int) -> str:
        return self.images.name(index)
