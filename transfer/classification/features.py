"""Frozen features of a split: weights and images in, (N, D) float32 on the CPU out.

Legend: N images of the split, D feature dimension, W processes, S side of the crop.

The features depend on weights, images and transform alone, so one extraction serves all trials
and, through the cache, later runs. The cache's file name is a sha256 over all three,
the files' sizes and times of change included.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pretrain.common.distributed import gather_rows, is_main, rank, world_size
from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from transfer.checkpoints.build import build_frozen_backbone
from transfer.classification.cache import Parts, file_stamp, read_cache, write_cache
from transfer.classification.data import CropDataset, ImageTransform, Split, collate

if TYPE_CHECKING:
    from transfer.checkpoints.weights import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """What one extraction gave. `seconds` is the extraction's, also when read from the cache."""

    values: Tensor  # (N, D) float32
    labels: Tensor  # (N,) int64, or (N, C)
    seconds: float

    def __len__(self) -> int:
        return len(self.labels)


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
) -> Features:
    """Returns the pooled features of every image of `split`, in order.

    Args:
        window: > 0: the last map averaged over windows of this side at stride 1 and flattened,
            as VISSL pools it (6 at 224 px: 2 x 2 windows); 0: averaged as a whole.

    bf16 autocast on CUDA (off on a CPU, where it is slower). With several processes each takes
    every W-th image, and all get the whole. With a cache folder a killed extraction goes on where
    it was, and a file that is torn or of other weights is computed again with a notice.

    Raises:
        InputError: an unreadable image (named), or features that are not finite.
    """
    key = _content_key(weights, split, transform, device.type, window)
    path = Path(cache_dir) / f"{key}.pt" if cache_dir else None
    if path and path.is_file() and (found := read_cache(path, split)):
        logger.info("features of %s: %s", split.name, path)
        return Features(**found)
    start = time.perf_counter()
    model = build_frozen_backbone(weights).to(device, memory_format=torch.channels_last)
    # Padded to a multiple of W with image 0, so that every process gathers the same shape
    padded = list(range(len(split))) + [0] * (-len(split) % world_size())
    mine = padded[rank() :: world_size()]
    parts = Parts(path, batch_size)
    loader = DataLoader(
        CropDataset(split, mine[parts.images :], transform),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )
    with progress(loader, desc=f"features of {split.name}", unit="batch") as batches:
        for images in batches:
            parts.add(_forward(model, weights, images, device, split, window))
    gathered = gather_rows(parts.all().to(device))  # process by process: undo the stride
    values = gathered.unflatten(0, (world_size(), -1)).transpose(0, 1).flatten(0, 1)
    values = values[: len(split)].cpu()
    if not values.isfinite().all():
        raise InputError(f"the features of {split.name} are not finite: the weights have diverged")
    features = Features(values, split.labels, time.perf_counter() - start)
    if path and is_main():
        write_cache(path, values=values, labels=split.labels, seconds=features.seconds)
    return features


@torch.no_grad()
def _forward(
    model: nn.Module,
    weights: Weights,
    images: Tensor | str,
    device: torch.device,
    split: Split,
    window: int,
) -> Tensor:
    """uint8 (N, 3, S, S) -> float32 (N, D)."""
    if isinstance(images, str):
        raise InputError(f"unreadable image in {split.name}: {images}; repair or remove it")
    inputs = weights.preprocess.apply(images.to(device, non_blocking=True))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        output = _pooled(model, inputs, window) if window else model(inputs)
    return output.float()


def _pooled(model: nn.Module, inputs: Tensor, window: int) -> Tensor:
    """The last map (N, C, h, w) -> (N, C * (h - window + 1) * (w - window + 1))."""
    if not hasattr(model, "forward_stages"):
        raise InputError("SVM.WINDOW needs a ResNet's map; set it to 0 for a ViT")
    last = list(model.forward_stages(inputs).values())[-1]
    if min(last.shape[2:]) < window:
        raise InputError(
            f"SVM.WINDOW {window} is larger than the last map of {tuple(last.shape[2:])}: use "
            "larger images, or 0"
        )
    return F.avg_pool2d(last, window, stride=1).flatten(1)


def _content_key(
    weights: Weights, split: Split, transform: ImageTransform, device: str, window: int
) -> str:
    """sha256 over all that the features depend on: weights, preprocessing, crops, image list."""
    facts = {
        "weights": weights.sha256,
        "preprocess": weights.preprocess.to_dict(),
        "transform": [transform.resize, transform.size, transform.interpolation],
        "split": split.name,
        "images": [split.images.name(index) for index in range(len(split))],
        "files": [file_stamp(split.images, index) for index in range(len(split))],
        "labels": split.labels.tolist(),
        "precision": "bf16" if device == "cuda" else "fp32",
    }
    # What came later leaves no trace where it is off, so that older caches still serve.
    if weights.architecture:
        facts["architecture"] = dict(weights.architecture)
    if window or transform.squash:
        facts["pooling"] = [window, transform.squash]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
