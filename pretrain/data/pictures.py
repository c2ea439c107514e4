"""Images that a user has at hand: a folder, a data set's name, files or PIL images, as one set."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.datasets import FolderImages, ImageDataset, open_images
from pretrain.data.decode import decode_image, to_rgb
from pretrain.data.folders import scan_folder
from pretrain.data.origins import Files, Origin, Pixels

Picture = str | Path | Image.Image
Pictures = str | Path | Iterable[Picture] | ImageDataset


def open_pictures(images: Pictures, *, turn: bool = False) -> ImageDataset:
    """Returns the images as a data set; those of a list have no labels.

    Args:
        images: a folder of images or of class folders, absolute, below the working directory or
            below the data sets' root; or a data set's name such as "folder:FOLDER:SPLIT" or
            "cifar10:test"; or a list of PIL images and paths of files, in any mixture; or a data
            set, which is returned as it is.
        turn: turns images as their EXIF data say, for a detector, see `decode_image`.

    Raises:
        InputError: a folder or a data set that is not there, see `open_images`; an empty list; or
            an item that is not an image.
    """
    if not isinstance(images, (str, Path, ImageDataset)):
        return GivenImages(images, turn)
    found = images if isinstance(images, ImageDataset) else _open_named(images)
    return GivenImages(found.files(), turn) if turn and found.files() else found


def _open_named(name: str | Path) -> ImageDataset:
    if Path(name).is_dir():
        return FolderImages(scan_folder(Path(name)))
    text = os.fspath(name)
    return open_images(text if ":" in text else f"folder:{text}")


class GivenImages(ImageDataset):
    """Holds images of any sizes that were given one by one: PIL images, and paths of files.

    Raises InputError for an empty list, and for an item that is neither.
    """

    def __init__(self, pictures: Iterable[Picture], turn: bool = False) -> None:
        self.pictures = list(pictures)
        self.turn = turn
        self.labels = np.full(len(self.pictures), -1, dtype=np.int64)
        self.classes = []
        if not self.pictures:
            raise InputError("the list of images is empty; give at least one")
        for place, picture in enumerate(self.pictures):
            if not isinstance(picture, (str, Path, Image.Image)):
                raise InputError(
                    f"image {place} of the list is a {type(picture).__name__}; give PIL images or "
                    "paths (of an array: PIL.Image.fromarray)"
                )

    @cached_property
    def origin(self) -> Origin:
        """See `ImageDataset.origin`; a list with PIL images gives its pixels."""
        names = [self.name(place) for place in range(len(self))]
        if not any(isinstance(picture, Image.Image) for picture in self.pictures):
            return Files(names)
        return Pixels([self.read_pixels(place) for place in range(len(self))], names)

    def read(self, index: int) -> Image.Image:
        picture = self.pictures[index]
        if isinstance(picture, Image.Image):
            return to_rgb(picture, self.name(index), self.turn)
        return decode_image(os.fspath(picture), fast=not self.turn, turn=self.turn)

    def name(self, index: int) -> str:
        picture = self.pictures[index]
        return f"image {index}" if isinstance(picture, Image.Image) else os.fspath(picture)
