"""Frozen features of a split: weights and images in, (N, D) on the CPU or mapped from a file out.

Legend: N images of the split, D feature dimension, B batch, W processes, S side of the crop.

The features depend on weights, images, transform and number formats alone, so one extraction
serves all trials and, through the cache, later runs. The cache's folder is named by a sha256 over
all of them, the files' sizes and times of change included.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pretrain.common.distributed import gather_objects, gather_rows, is_main, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.lookup import find
from pretrain.common.resources import usable_workers
from transfer.checkpoints.build import build_frozen_backbone
from transfer.classification.cache import FeatureTable, file_stamp, open_table
from transfer.classification.data import CropDataset, ImageTransform, Split, collate
from transfer.classification.readable import check_readable

if TYPE_CHECKING:
    from transfer.checkpoints.weights import Weights

logger = logging.getLogger(__name__)


# Images of 16 bits were once read otherwise. JPEG holds none: features of JPEGs remain valid.
DECODING, JPEG_SUFFIXES = 2, (".jpg", ".jpeg")
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS, STORAGES = ("auto", "fp32", "bf16"), ("auto", "fp32", "fp16")


class UnreadableImage(InputError):
    """An image cannot be read; the message names it."""


@dataclass(frozen=True)
class Features:
    """What one extraction gave; `values` and `seconds` to the first process alone.

    Attributes:
        values: (N, D) float32 or float16, to be read only; mapped from the cache where there is
            one, and (0, 0) on other processes than the first.
        labels: (N,) int64, or (N, C).
        seconds: that the extraction took, also where this one came from the cache.
    """

    values: Tensor
    labels: Tensor
    seconds: float

    def __len__(self) -> int:
        return len(self.labels)


def choose_formats(precision: str, storage: str, device: torch.device) -> tuple[str, str]:
    """What `auto` stands for: bf16 forward passes on CUDA, fp32 elsewhere; fp16 storage of bf16
    passes, whose rounding (2^-8) is coarser than fp16's (2^-11), fp32 storage of fp32 passes.

    Raises:
        InputError: an unknown name.
    """
    find(precision, dict.fromkeys(PRECISIONS), "precision", "FEATURES.PRECISION")
    find(storage, dict.fromkeys(STORAGES), "storage", "FEATURES.STORAGE")
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" else "fp32"
    if storage == "auto":
        storage = "fp16" if precision == "bf16" else "fp32"
    return precision, storage


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
    """Returns the pooled features of every image of `split`, in order.

    Args:
        window: > 0: the last map averaged over windows of this side at stride 1 and flattened,
            as VISSL pools it (6 at 224 px: 2 x 2 windows); 0: averaged as a whole.
        precision: of the forward pass, fp32 or bf16 (autocast); storage: fp32 or fp16.
        label: what a progress bar and the log call them.

    Of several processes each takes every W-th batch. The batches are those of one process, and so
    are the features, bit for bit where each has as many threads. With a cache folder a killed
    extraction goes on where it was, with any W.

    Raises:
        InputError: unreadable images (all are counted), features that are not finite or too large
            for fp16, a cache folder that cannot be written, or is full.
    """
    options = {"window": window, "precision": precision, "storage": storage}
    kept = None
    if cache_dir and is_main():
        kept = Path(cache_dir) / _content_key(weights, split, transform, **options)
    with open_table(kept, len(split), batch_size) if is_main() else nullcontext() as table:
        pending = gather_objects(table.pending.copy() if table else [])[0]
        if pending:
            plan = [range(len(split))[b * batch_size : (b + 1) * batch_size] for b in pending]
            # Padded to a multiple of W, so that every process has a batch for each gathering
            plan += [plan[0]] * (-len(plan) % world_size())
            loader = DataLoader(
                CropDataset(split, range(len(split)), transform),
                batch_sampler=plan[rank() :: world_size()],
                num_workers=usable_workers(num_workers),
                collate_fn=collate,
                pin_memory=device.type == "cuda",
            )
            forward = _Forward(weights, split, device, **options)
            try:
                _fill(table, pending, loader, forward, batch_size, f"{label} of {split.name}")
            except UnreadableImage:
                check_readable([split], num_workers)  # names all of them
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
    """Runs the loader's batches, in rounds of one a process, into the first process's table."""
    start, count = time.perf_counter(), world_size()
    with progress(loader, desc=desc, unit="batch") as batches:
        for turn, images in enumerate(batches):
            parts = _gather(images, forward, batch_size)
            done = pending[turn * count : (turn + 1) * count]
            now, problem = time.perf_counter(), None
            try:
                for batch, part in zip(done, parts) if table else ():
                    span = table.span(batch)
                    table.add(batch, part[: span.stop - span.start], (now - start) / len(done))
            except InputError as error:  # a full disk
                problem = error
            _stop_together(problem)
            start = now


def _gather(images: Tensor | str, forward: _Forward, batch_size: int) -> Sequence[Tensor]:
    """Every process's features of its batch, padded to (B, D), on the CPU."""
    values: Tensor | None = None
    problem: InputError | None = None
    try:
        values = forward(images)
    except InputError as error:
        problem = error
    _stop_together(problem)
    padded = F.pad(values, (0, 0, 0, batch_size - len(values)))
    return gather_rows(padded).cpu().split(batch_size)


def _stop_together(problem: InputError | None) -> None:
    """Raises the first process's problem in all of them: none waits for it in vain."""
    for found in gather_objects(problem):
        if found is not None:
            raise found


class _Forward:
    """uint8 (N, 3, S, S) -> (N, D), finite, in the format of storage."""

    def __init__(
        self,
        weights: Weights,
        split: Split,
        device: torch.device,
        window: int,
        precision: str,
        storage: str,
    ) -> None:
        model = build_frozen_backbone(weights)
        self.model = model.to(device, memory_format=torch.channels_last)
        self.preprocess, self.split = weights.preprocess, split
        self.device, self.window, self.autocast = device, window, precision == "bf16"
        self.storage = FORMATS[storage]

    @torch.no_grad()
    def __call__(self, images: Tensor | str) -> Tensor:
        name = self.split.name
        if isinstance(images, str):
            raise UnreadableImage(f"unreadable image in {name}: {images}; remove it")
        inputs = self.preprocess.apply(images.to(self.device, non_blocking=True))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            pooled = _pooled(self.model, inputs, self.window) if self.window else self.model(inputs)
        values = pooled.to(self.storage)
        if values.isfinite().all():
            return values
        if pooled.isfinite().all():
            raise InputError(
                f"a feature of {name} is {pooled.abs().max():g}, too large for FEATURES.STORAGE "
                "fp16: set it to fp32"
            )
        raise InputError(f"the features of {name} are not finite: the weights have diverged")


def _pooled(model: nn.Module, inputs: Tensor, window: int) -> Tensor:
    """The last map (N, C, h, w) -> (N, C * (h - window + 1) * (w - window + 1))."""
    if not hasattr(model, "forward_stages"):
        raise InputError("SVM.WINDOW needs a ResNet's map; set it to 0 for others")
    last = list(model.forward_stages(inputs).values())[-1]
    if min(last.shape[2:]) < window:
        raise InputError(
            f"SVM.WINDOW {window} is larger than the last map of {tuple(last.shape[2:])}: use "
            "larger images, or 0"
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
    """sha256 over all that the features depend on: weights, preprocessing, crops, image list."""
    facts = {
        "weights": weights.sha256,
        "architecture": dict(weights.architecture),
        "preprocess": weights.preprocess.to_dict(),
        "transform": [transform.resize, transform.size, transform.interpolation, transform.squash],
        "window": window,
        "split": split.name,
        "images": [split.images.name(index) for index in range(len(split))],
        "files": [file_stamp(split.images, index) for index in range(len(split))],
        "labels": split.labels.tolist(),
        "formats": [precision, storage],
    }
    if any(not split.images.name(i).lower().endswith(JPEG_SUFFIXES) for i in range(len(split))):
        facts["decoding"] = DECODING
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
