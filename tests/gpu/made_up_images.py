"""Made-up images with objects, in files: the data sets of the transfers in the rehearsal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.segmentation.data import SemanticSample, SemanticSet


def detection_set(
    folder: Path, size: tuple[int, int], images: int, objects: int, classes: int
) -> DetectionSet:
    """Noise of `size` (height, width); each image has as many objects, with polygons, at places
    that are drawn from a fixed seed."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(images):
        file = _write(folder / f"{index}.png", rng, size)
        found = [_instance(rng, size, index % classes) for _ in range(objects)]
        samples.append(Sample(str(file), index, *size, tuple(found)))
    names = tuple(f"class {number}" for number in range(classes))
    return DetectionSet("made-up", "coco", samples, names, tuple(range(1, classes + 1)))


def semantic_set(
    folder: Path, size: tuple[int, int], images: int, classes: Sequence[str]
) -> SemanticSet:
    """Noise of `size` (height, width) with noise of all classes as its mask."""
    rng = np.random.default_rng(0)
    samples = []
    for index in range(images):
        file, mask = _write(folder / f"{index}.png", rng, size), folder / f"{index}_mask.png"
        Image.fromarray(rng.integers(0, len(classes), size, dtype=np.uint8)).save(mask)
        samples.append(SemanticSample(str(file), str(mask), str(index)))
    return SemanticSet("made-up", tuple(samples), tuple(classes))


def _write(path: Path, rng: np.random.Generator, size: tuple[int, int]) -> Path:
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def _instance(rng: np.random.Generator, size: tuple[int, int], category: int) -> Instance:
    """A rectangle of a third of the image's sides to two thirds."""
    height, width = size
    w, h = rng.uniform(1 / 3, 2 / 3, 2) * (width, height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return Instance((x, y, x + w, y + h), category, polygons=[corners])
