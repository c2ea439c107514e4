"""Labelled images of a training and a test split, checked before anything is computed.

In: data set names. Out: `Split`s, and uint8 crops (N, 3, S, S) in RGB.
Legend: N images, S side of the crop in pixels.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from pretrain.common.distributed import from_main
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.crops import central_part
from pretrain.data.datasets import ImageDataset, describe_images, open_images, sorting_hint
from pretrain.data.decode import decode_image
from pretrain.data.kinds import check_kinds
from pretrain.data.listed import part_of_whole
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet

logger = logging.getLogger(__name__)
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ImageTransform:
    """Resize the shorter side to `resize` px, then crop the centre `size` px.

    `squash` resizes the whole image to size x size instead of the crop, as VISSL does for VOC07.
    """

    resize: int
    size: int
    interpolation: str = "bilinear"
    squash: bool = False

    def __post_init__(self) -> None:
        find(self.interpolation, INTERPOLATIONS, "interpolation", "PROTOCOL.INTERPOLATION")
        if not 0 < self.size <= self.resize:
            raise InputError(
                f"PROTOCOL.IMAGE_SIZE {self.size} must be from 1 to PROTOCOL.RESIZE {self.resize}"
            )

    def apply(self, image: Image.Image) -> Tensor:
        """PIL RGB -> uint8 (3, S, S). The shape rules are torchvision's Resize and CenterCrop."""
        if not self.squash:
            image = central_part(image)
        width, height = image.size
        short = min(width, height)
        if short != self.resize:
            size = tuple(
                self.resize if side == short else self.resize * side // short
                for side in (width, height)
            )
            image = image.resize(size, INTERPOLATIONS[self.interpolation])
        if self.squash:
            image = image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation])
        left = round((image.width - self.size) / 2)
        top = round((image.height - self.size) / 2)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


@dataclass(frozen=True)
class Split:
    """The labelled images of one split.

    `labels` is (N,) int64, or (N, C) of images with several: 1 present, 0 absent, -1 ignored.
    """

    name: str
    images: ImageDataset | PhotoFiles | Chosen
    labels: Tensor
    classes: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)  # see ImageDataset

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self) -> str:
        """One line for the log: images, classes, what is left out."""
        if self.labels.dim() == 1:
            sizes = torch.bincount(self.labels, minlength=len(self.classes))
        else:
            sizes = (self.labels == 1).sum(dim=0)
        return describe_images(self.name, len(self), sizes.tolist(), self.left_out)

    def subset(self, indices: Sequence[int]) -> Split:
        """The images of these indices, in their order."""
        images = Chosen(self.images, tuple(indices))
        return replace(self, images=images, labels=self.labels[list(indices)])


@dataclass(frozen=True)
class Chosen:
    """Some of a data set's images."""

    images: ImageDataset | PhotoFiles
    indices: tuple[int, ...]

    def name(self, index: int) -> str:
        """Of the data set's own image."""
        return self.images.name(self.indices[index])

    def read(self, index: int) -> Image.Image:
        """As the data set reads it."""
        return self.images.read(self.indices[index])


class PhotoFiles:
    """The image files of a detection set, read as `ImageDataset` reads its own."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)

    def name(self, index: int) -> str:
        """The file's path."""
        return self.files[index]

    def read(self, index: int) -> Image.Image:
        """PIL RGB by PIL's own decoder, not turned; OSError with the path for a file that is not
        read."""
        return decode_image(self.files[index], fast=False)


class CropDataset(Dataset):
    """Item i is image i's crop, uint8 (3, S, S), or the text of what made it unreadable.

    The text travels as a value because an exception raised in a loader's worker process arrives
    with the worker's traceback in its message.
    """

    def __init__(self, split: Split, indices: Sequence[int], transform: ImageTransform) -> None:
        self.split, self.indices, self.transform = split, indices, transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Tensor | str:
        try:
            return self.transform.apply(self.split.images.read(self.indices[position]))
        except OSError as error:
            return " ".join(str(error).split())


def collate(items: Sequence[Tensor | str]) -> Tensor | str:
    """Stacks the crops to (N, 3, S, S); or returns the first error's text."""
    errors = [item for item in items if isinstance(item, str)]
    return errors[0] if errors else torch.stack(list(items))


def open_splits(
    train: str, test: str, limit_per_class: int = 0, test_limit_per_class: int = 0
) -> tuple[Split, Split]:
    """Opens both splits. Classes that have no image, as in a part of a listed set, are left out.

    Raises:
        InputError: a name is empty or unknown, images without class folders, fewer than two
            classes, splits whose classes differ, or a class with test images only.
    """
    given = {"DATASETS.TRAIN folder:FOLDER:train": train, "DATASETS.TEST folder:FOLDER:val": test}
    if missing := [words for words, name in given.items() if not name]:
        raise InputError(f"the config leaves the data to you: add {' '.join(missing)}")
    first, second = open_split(train, limit_per_class), open_split(test, test_limit_per_class)
    if first.classes != second.classes:
        here, there = set(first.classes), set(second.classes)
        only = [f"{name!r} only in {train}" for name in sorted(here - there)[:3]]
        only += [f"{name!r} only in {test}" for name in sorted(there - here)[:3]]
        forms = [{unicodedata.normalize("NFC", name) for name in names} for names in (here, there)]
        why = "; the names differ in their form of accents (macOS's NFD): rename the folders"
        raise InputError(
            f"the classes of {train} and {test} differ: {'; '.join(only) or 'their order'}"
            f"{why if forms[0] == forms[1] and only else ''}"
        )
    return _classes_with_images(first, second)


def _classes_with_images(train: Split, test: Split) -> tuple[Split, Split]:
    there = torch.zeros(len(train.classes), dtype=torch.bool)
    there[train.labels] = True
    unknown = test.labels[~there[test.labels]]
    if len(unknown):
        name = train.classes[int(unknown[0])]
        raise InputError(f"{test.name} has images of the class {name!r}, {train.name} has none")
    if there.sum() < 2:
        raise InputError(f"{train.name} has images of one class: nothing to tell apart")
    classes = tuple(name for name, has in zip(train.classes, there) if has)
    position = there.cumsum(dim=0) - 1
    first, second = (
        replace(split, labels=position[split.labels], classes=classes) for split in (train, test)
    )
    return first, second


def open_object_splits(train: str, test: str) -> tuple[Split, Split]:
    """The splits of a detection set (VOC or COCO) with the classes of their objects as labels.

    A class is present if an object of it is not difficult, ignored if all are difficult or crowd,
    and absent otherwise, as in VOC's ImageSets/Main/CLASS_trainval.txt (1, 0, -1 there). Classes
    that no test image shows have no AP: they are left out of both splits, with a warning.

    Raises:
        InputError: see `transfer.datasets.registry.open_sets`; no class is left.
    """
    for key, name in (("DATASETS.TRAIN", train), ("DATASETS.TEST", test)):
        if not name:
            raise InputError(f"{key} is empty: name a detection set, such as voc_2007_trainval")
    first = open_sets([train])
    splits = _object_labels(first), _object_labels(open_sets([test], like=first))
    shown = (splits[1].labels == 1).any(dim=0)
    if not shown.any():
        raise InputError(f"{test} shows no object of the classes of {train}: nothing to test on")
    missing = [name for name, there in zip(first.classes, shown) if not there]
    if missing:
        logger.warning("%s shows no %s: left out of the mean", test, ", ".join(missing))
    kept = tuple(name for name in first.classes if name not in missing)
    one, two = (replace(part, labels=part.labels[:, shown], classes=kept) for part in splits)
    return one, two


def _object_labels(data: DetectionSet) -> Split:
    labels = torch.zeros(len(data), len(data.classes), dtype=torch.int64)
    for row, sample in zip(labels, data.samples):
        clear = {i.category for i in sample.instances if not (i.difficult or i.crowd)}
        for instance in sample.instances:
            row[instance.category] = 1 if instance.category in clear else -1
    files = PhotoFiles([sample.file_name for sample in data.samples])
    check_kinds(data.name, files.files)
    return Split(data.name, files, labels, data.classes)


def open_split(name: str, limit_per_class: int = 0) -> Split:
    """Opens one split, the first `limit_per_class` images of each class (0: all), once for all
    processes of a group."""
    if limit_per_class < 0:
        raise InputError(f"DATASETS.LIMIT_PER_CLASS {limit_per_class} must be 0 (all) or more")
    images = from_main(None, lambda: open_images(name, limit_per_class or None))
    if len(images) == 0 or images.labels.min() < 0:
        raise InputError(
            f"{name} has no labels: classification needs one folder per class{sorting_hint(images)}"
        )
    if len(images.classes) < 2:
        raise InputError(f"{name} has one class ({images.classes[0]!r}): nothing to tell apart")
    part = "" if limit_per_class else part_of_whole(name, len(images), len(images.classes))
    if part:
        logger.warning("%s has %d images, a part: %s", name, len(images), part)
    check_kinds(name, images.files())
    labels = torch.from_numpy(images.labels)
    return Split(name, images, labels, tuple(images.classes), images.left_out)
