"""Processor time in which a loader's worker makes two random crops of 224 px from each JPEG file.
It measures each value of `VIEWS.RESIZE`, also with each image cropped before the next one is
decoded, and how far their pixels differ. Ratios come from one run, which measures all in turn.

    OMP_NUM_THREADS=1 python benchmarks/resize.py --output benchmarks/results/resize_2cores.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.images import write_photos
from benchmarks.timing import Sample, Work, interleaved, measure, ratio, spread
from pretrain.common.environment import describe_environment, describe_hardware
from pretrain.data import loader as loader_module
from pretrain.data.crops import RESIZES, CropSpec
from pretrain.data.datasets import FolderImages
from pretrain.data.folders import scan_folder
from pretrain.data.loader import Batch, CropLoader

PHOTOS, BATCH = 128, 16
# What is measured: the library that resizes, and the bytes of images that a worker decodes together
TOGETHER = loader_module.DECODED_BYTES
PARTS = {resize: (resize, TOGETHER) for resize in RESIZES}
PARTS |= {f"{resize}, one image at a time": (resize, 0) for resize in RESIZES}
BASE = "pillow, one image at a time"


def crops_work(loader: CropLoader, decoded_bytes: int) -> Work:
    """Reads, decodes and crops in this process, as a worker does."""

    def work(seconds: float) -> Sample:
        loader_module.DECODED_BYTES = decoded_bytes
        batches = (batch for epoch in count() for batch in loader.epoch(epoch))
        return measure(lambda: len(next(batches).index), seconds, lambda: None)

    return work


def differences(loaders: Sequence[CropLoader]) -> dict[str, float]:
    """Returns how far the crops of two loaders differ, in levels of 255."""
    pairs = zip(*(loader.epoch(0) for loader in loaders))
    found = np.concatenate([_difference(a, b) for a, b in pairs])
    inside = found[..., 3:-3, 3:-3]
    return {
        "share_equal": float((found == 0).mean()),
        "mean": float(found.mean()),
        "largest": int(found.max()),
        "largest_3_px_inside": int(inside.max()),
    }


def _difference(one: Batch, other: Batch) -> np.ndarray:
    return np.concatenate(
        [(a.int() - b.int()).abs().numpy() for a, b in zip(one.crops, other.crops)]
    )


def run(seconds: float, repetitions: int) -> dict[str, Any]:
    """Returns the result as one dict of builtins."""
    with tempfile.TemporaryDirectory(prefix="resize_") as scratch:
        write_photos(Path(scratch), PHOTOS)
        images = FolderImages(scan_folder(Path(scratch)))
        make: Callable[[str], CropLoader] = lambda resize: CropLoader(
            images, crops=[CropSpec(224)] * 2, batch_size=BATCH, resize=resize
        )
        loaders = {resize: make(resize) for resize in RESIZES}
        works = {
            name: crops_work(loaders[resize], together)
            for name, (resize, together) in PARTS.items()
        }
        samples = interleaved(works, seconds, repetitions)
        times = {name: [sample.cpu_ms for sample in found] for name, found in samples.items()}
        return {
            "options": {"seconds": seconds, "repetitions": repetitions, "photos": PHOTOS},
            "hardware": describe_hardware(),
            "environment": describe_environment(),
            "cpu_ms_per_image": {name: spread(found) for name, found in times.items()},
            "ratios": {
                "torch / pillow": ratio(times["torch"], times["pillow"]),
                **{
                    f"{name} / {BASE}": ratio(times[name], times[BASE])
                    for name in PARTS
                    if name != BASE
                },
            },
            "differences": differences(list(loaders.values())),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per measurement (3)")
    parser.add_argument("--repetitions", type=int, default=5, help="repetitions of each (5)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = json.dumps(run(args.seconds, args.repetitions), indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
