"""The parts of a pretraining step as separate pieces of work: makes `Work`s of a `Training`.

    loader      files to uint8 crops on the CPU
    augment     resident uint8 crops to views, on the training's device
    compute     forward, backward and update on resident random views
    step        all of these, as in the training loop
    views       loader and augment without a network: the pipeline that other libraries also have
Legend: V views, N images in this process's batch, S a view's side in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from benchmarks.timing import Sample, Work, measure, measure_stream
from pretrain.common.distributed import world_size
from pretrain.data.augment import ViewRecipe
from pretrain.data.crops import CropSpec
from pretrain.data.datasets import ImageDataset
from pretrain.data.loader import Batch, CropLoader
from pretrain.data.views import ViewMaker
from pretrain.engine.loop import (
    Loader,
    Training,
    finish_step,
    forward_backward,
    prepare,
    step_generator,
    steps,
)


def finisher(device: torch.device) -> Callable[[], None]:
    """A function that waits for the unfinished work of a device."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


class ReadyViews(ViewMaker):
    """Gives the same views for all crops, to time only the work after them."""

    def __init__(self, views: list[Tensor]) -> None:
        self.views = views

    def __call__(self, crops: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
        return self.views


def endless(loader: Loader) -> Iterator[Batch]:
    """Batches of epoch after epoch."""
    return iter(loader.steps(0, sys.maxsize))


def loader_work(loader: Loader, warmup_batches: int) -> Work:
    """Files to uint8 crops: images per second that the workers deliver."""

    def work(seconds: float) -> Sample:
        batches = endless(loader)
        return measure_stream(batches, _images, seconds, lambda: None, warmup_batches)

    return work


def views_work(
    loader: Loader, make_views: ViewMaker, device: torch.device, warmup_batches: int
) -> Work:
    """Files to views on the device."""

    def use(batch: Batch) -> int:
        make_views(batch.to(device).crops, step_generator(0, 0))
        return _images(batch)

    def work(seconds: float) -> Sample:
        return measure_stream(endless(loader), use, seconds, finisher(device), warmup_batches)

    return work


def augment_work(crops: Sequence[Tensor], make_views: ViewMaker) -> Work:
    """V resident crops uint8 (N, 3, S, S) to views, on their device."""
    steps = count()

    def step() -> int:
        make_views(crops, step_generator(0, next(steps)))
        return len(crops[0])

    return lambda seconds: measure(step, seconds, finisher(crops[0].device))


def compute_work(training: Training, batch: Batch) -> Work:
    """Forward, backward and update on random views that are already on the device."""
    noise = torch.Generator().manual_seed(0)
    views = [torch.randn(crop.shape, generator=noise).to(training.device) for crop in batch.crops]
    resident = replace(training, make_views=ReadyViews(views))
    given = prepare(resident, batch, 0)

    def step() -> int:
        finish_step(resident, forward_backward(resident, given))
        return _images(batch)

    return lambda seconds: measure(step, seconds, finisher(training.device))


def step_work(training: Training, warmup_batches: int) -> Work:
    """The full step as in the training loop, without callbacks."""

    images = training.batch_size // world_size()

    def work(seconds: float) -> Sample:
        training.model.train()
        endless = steps(replace(training, step=0, total_steps=sys.maxsize))
        done = finisher(training.device)
        return measure_stream(endless, lambda outcome: images, seconds, done, warmup_batches)

    return work


def simclr_views(
    dataset: ImageDataset, *, size: int, batch_size: int, num_workers: int
) -> tuple[CropLoader, ViewMaker]:
    """The loader and the views of SimCLR's two views of `size` px, the recipe that peers have.

    torch resizes the crops after they are cut, as torchvision's (and so the peers') crop does it.
    """
    crops = [CropSpec(size)] * 2
    loader = CropLoader(
        dataset, crops=crops, batch_size=batch_size, num_workers=num_workers, resize="torch"
    )
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[None] * 2, masks=[None] * 2)
    return loader, maker


def _images(batch: Batch) -> int:
    return len(batch.index)
