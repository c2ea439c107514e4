"""Frozen features of the images of a split: weights and images in, (N, D) numbers out.

Legend: N images of the split, D feature dimensions, B images of a batch, W processes, S side of the
crop in pixels.

The features depend only on weights, images, transform and number formats, so all trials use one
extraction and, through the cache, later runs do too. The name of the cache's folder is a sha256
over all of them, which includes the sizes of the files and the times of their last change.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pretrain.backbones.resnet import Trunk
from pretrain.common.distributed import gather_objects, gather_rows, is_main, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.lost_workers import Batches
from pretrain.common.resources import loader_processes
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.weights import Weights
from transfer.classification.crops import CropDataset, ImageTransform, check_readable, collate
from transfer.classification.features.cache import FeatureTable, open_table
from transfer.classification.features.formats import DTYPES
from transfer.classification.features.quality import feature_quality, pair_splits
from transfer.classification.splits import Split

logger = logging.getLogger(__name__)

# 16-bit images were once read differently. A JPEG cannot be 16-bit: its features stay valid.
DECODING, JPEG_SUFFIXES = 2, (".jpg", ".jpeg")


class UnreadableImage(InputError):
    """Says that an image cannot be read; the message names it."""


@dataclass(frozen=True)
class Features:
    """Holds the features of one split. Only the first process has `values` and `seconds`.

    Attributes:
        values: (N, D) float32 or float16, which must not be written to: with a cache they are
            mapped from its file. (0, 0) on the other processes.
        labels: labels of the split, (N,) int64 or (N, C).
        seconds: time that it takes to compute the features, also if they came from the cache.
    """

    values: Tensor
    labels: Tensor
    seconds: float

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Extracted:
    """Holds the features that all trials on the same weights share.

    Attributes:
        sha256: sha256 of the weights.
        bank: features of the training images; `queries`: features of the test images.
        quality: see `feature_quality`; {} if it was not asked for.
        seconds: time that it takes to compute everything, also if some of it came from the cache.
    """

    sha256: str
    bank: Features
    queries: Features
    quality: dict[str, float]
    seconds: float


def extract_splits(
    weights: Weights,
    train: Split,
    test: Split,
    transform: ImageTransform,
    *,
    quality_images: int,
    **options: Any,
) -> Extracted:
    """Extracts the features of both splits, and measures the quality of the test images' features.

    Args:
        quality_images: number of test images of which two random crops are compared; 0: the
            quality is not measured.
        options: keyword arguments of `extract_features`.
    """
    bank = extract_features(weights, train, transform, **options)
    queries = extract_features(weights, test, transform, **options)
    pair: list[Features] = []
    if quality_images:
        crops = replace(transform, resize=transform.size)  # the random crops have their size
        views = pair_splits(test, quality_images, transform.size, transform.interpolation)
        labels = ("features of the first random crops", "features of the second random crops")
        pair = [
            extract_features(weights, view, crops, label=label, **options)
            for view, label in zip(views, labels)
        ]
    begun, quality = time.perf_counter(), {}
    if pair and is_main():
        quality = feature_quality(queries.values, [part.values for part in pair])
    seconds = sum(part.seconds for part in (bank, queries, *pair)) + time.perf_counter() - begun
    return Extracted(weights.sha256, bank, queries, quality, seconds)


def extract_features(
    weights: Weights,
    split: Split,
    transform: ImageTransform,
    *,
    device: torch.device,
    batch_size: int = 256,
    num_workers: int = 0,
    cache_dir: str = "",
    window: int = 0,
    precision: str = "fp32",
    storage: str = "fp32",
    label: str = "features",
) -> Features:
    """Returns the pooled features of every image of `split`, in the split's order.

    Args:
        window: if above 0, the last map is averaged over windows of this side at stride 1 and
            flattened, as VISSL pools it (6 at 224 px: 2 x 2 windows). 0: the trunk's output.
        precision: format of the forward pass: fp32, or bf16 or fp16 (autocast).
        storage: format in which the features are kept: fp32 or fp16.
        label: the features' name in the progress bar and the log.

    Each of W processes computes every W-th batch. The batches are the same as with one process, and
    so are the features, bit for bit if each process has the same number of threads. With a cache
    folder a killed extraction continues where it stopped, with any W.

    Raises:
        InputError: images are unreadable (all are counted), features are not finite or too large
            for fp16, or the cache folder cannot be written or is full.
    """
    kept = None
    if cache_dir and is_main():
        kept = Path(cache_dir) / _content_key(
            weights, split, transform, window=window, precision=precision, storage=storage
        )
    with open_table(kept, len(split), batch_size) if is_main() else nullcontext() as table:
        pending = gather_objects(table.pending.copy() if table else [])[0]
        if pending:
            rows = list(range(len(split)))
            plan = [rows[b * batch_size : (b + 1) * batch_size] for b in pending]
            # Padded to a multiple of W: every process needs a batch for each gathering
            plan += [plan[0]] * (-len(plan) % world_size())
            loader = DataLoader(
                CropDataset(split, rows, transform),
                batch_sampler=plan[rank() :: world_size()],
                **loader_processes(num_workers),
                collate_fn=collate,
                pin_memory=device.type == "cuda",
                generator=torch.Generator(),  # does not change the global one: see `load`
            )
            forward = _Forward(weights, split, device, window, precision, storage)
            try:
                _fill(table, pending, loader, forward, batch_size, f"{label} of {split.name}")
            except UnreadableImage:
                check_readable([split], num_workers)  # its message counts all of them
                raise
        elif kept:
            logger.info("%s of %s: %s", label, split.name, kept)
        values = table.values() if table else torch.empty(0, 0)
        return Features(values, split.labels, table.seconds if table else 0.0)


def _fill(
    table: FeatureTable | None,
    pending: Sequence[int],
    loader: DataLoader,
    forward: _Forward,
    batch_size: int,
    desc: str,
) -> None:
    """Computes the loader's batches, one per process in each round, into process 0's table."""
    start, count = time.perf_counter(), world_size()
    with progress(Batches(loader), desc=desc, unit="batch") as batches:
        for turn, images in enumerate(batches):
            parts = _gather(images, forward, batch_size)
            done = pending[turn * count : (turn + 1) * count]
            now, problem = time.perf_counter(), None
            try:
                if table is not None:
                    for batch, part in zip(done, parts):
                        span = table.span(batch)
                        table.add(batch, part[: span.stop - span.start], (now - start) / len(done))
            except InputError as error:  # a full disk
                problem = error
            _stop_together(problem)
            start = now


def _gather(images: Tensor | str, forward: _Forward, batch_size: int) -> Sequence[Tensor]:
    """Returns every process's features of its batch, padded to (B, D), on the CPU."""
    values, problem = torch.empty(0, 0), None
    try:
        values = forward(images)
    except InputError as error:
        problem = error
    _stop_together(problem)
    padded = F.pad(values, (0, 0, 0, batch_size - len(values)))
    return gather_rows(padded).cpu().split(batch_size)


def _stop_together(problem: InputError | None) -> None:
    """Raises a problem of one process in all processes: otherwise they would wait for ever."""
    for found in gather_objects(problem):
        if found is not None:
            raise found


class _Forward:
    """Maps crops (n, 3, S, S) to features (n, D), finite and in the format that is kept."""

    def __init__(
        self,
        weights: Weights,
        split: Split,
        device: torch.device,
        window: int,
        precision: str,
        storage: str,
    ) -> None:
        model = build_frozen_backbone(weights).to(device)
        self.model = model.to(memory_format=torch.channels_last)
        self.preprocess, self.split = weights.preprocess, split
        self.device, self.window = device, window
        self.precision, self.storage = precision, DTYPES[storage]

    @torch.no_grad()
    def __call__(self, images: Tensor | str) -> Tensor:
        name = self.split.name
        if isinstance(images, str):
            raise UnreadableImage(f"unreadable image in {name}: {images}; repair or remove it")
        inputs = self.preprocess.apply(images.to(self.device, non_blocking=True))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        lowered = self.precision != "fp32"
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=lowered):
            pooled = _pooled(self.model, inputs, self.window) if self.window else self.model(inputs)
        values = pooled.to(self.storage)
        if values.isfinite().all():
            return values
        if pooled.isfinite().all():
            raise InputError(
                f"a feature of {name} is {pooled.abs().max():g}, too large for FEATURES.STORAGE "
                "fp16; set FEATURES.STORAGE to fp32"
            )
        if self.precision == "fp16":
            raise InputError(
                f"the features of {name} are not finite: values in the network are too large for "
                "FEATURES.PRECISION fp16 (set it to fp32), or the weights have diverged"
            )
        raise InputError(
            f"the features of {name} are not finite: the weights have diverged; use an earlier "
            "checkpoint"
        )


def _pooled(model: nn.Module, inputs: Tensor, window: int) -> Tensor:
    """Averages the last map (n, c, h, w) over windows; returns (n, c * positions of the window).

    Raises:
        InputError: the backbone has no map, or its last map is smaller than a window.
    """
    if not isinstance(model, Trunk):
        raise InputError("SVM.WINDOW needs the feature map of a ResNet; set it to 0")
    last = list(model.forward_stages(inputs).values())[-1]
    if min(last.shape[2:]) < window:
        raise InputError(
            f"SVM.WINDOW {window} is larger than the last map {tuple(last.shape[2:])}; set a "
            "larger PROTOCOL.IMAGE_SIZE, or SVM.WINDOW 0"
        )
    return F.avg_pool2d(last, window, stride=1).flatten(1)


def _content_key(
    weights: Weights,
    split: Split,
    transform: ImageTransform,
    *,
    window: int,
    precision: str,
    storage: str,
) -> str:
    """Returns the sha256 of everything the features depend on: weights, crops, files, formats."""
    facts = {
        "weights": weights.sha256,
        "architecture": dict(weights.architecture),
        "preprocess": weights.preprocess.to_dict(),
        "transform": [transform.resize, transform.size, transform.interpolation, transform.squash],
        "window": window,
        "split": split.name,
        "images": [split.images.name(index) for index in range(len(split))],
        "files": split.images.origin.all_stamps(),
        "labels": split.labels.tolist(),
        "formats": [precision, storage],
    }
    if transform.gray:
        facts["gray"] = True
    if any(not split.images.name(i).lower().endswith(JPEG_SUFFIXES) for i in range(len(split))):
        facts["decoding"] = DECODING
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
