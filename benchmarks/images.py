"""Photographs to measure with, if none are given: writes JPEG files into a folder.

They are random parts of scikit-learn's two sample photographs at JPEG quality 92. They have real
texture, so decoding costs as much as with photographs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.data.datasets import ImageDataset

SIZE = (500, 375)  # ImageNet's median
LINKS = 30_000  # links to one file; file systems have a limit


def write_photos(folder: Path, count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> None:
    """Writes `count` JPEG files of `size` (width, height) px into the class folder `folder`/photos,
    which must not exist."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    target = folder / "photos"
    target.mkdir(parents=True)
    for i in range(count):
        photo = photos[i % len(photos)]
        width = min(photo.width, photo.height * size[0] / size[1]) * rng.uniform(0.6, 1.0)
        height = width * size[1] / size[0]
        x = rng.uniform(0, photo.width - width)
        y = rng.uniform(0, photo.height - height)
        crop = photo.resize(size, Image.Resampling.BICUBIC, (x, y, x + width, y + height))
        crop.save(target / f"{i:05d}.jpg", quality=92)


def write_linked(paths: Iterable[Path], content: bytes) -> None:
    """Writes the same content under all names, in existing folders. The names are hard links, with
    a new file after each `LINKS` names."""
    for number, path in enumerate(paths):
        if number % LINKS == 0:
            first = path
            first.write_bytes(content)
        else:
            os.link(first, path)


class RepeatedImages(ImageDataset):
    """A data set that is repeated, so that a short one does not end during a measurement."""

    def __init__(self, once: ImageDataset, length: int) -> None:
        self.once = once
        self.labels = np.resize(once.labels, length)  # repeated
        self.classes = once.classes

    def read(self, index: int) -> Image.Image:
        return self.once.read(index % len(self.once))

    def read_pixels(self, index: int) -> np.ndarray:
        return self.once.read_pixels(index % len(self.once))

    def name(self, index: int) -> str:
        return self.once.name(index % len(self.once))
