"""The labelled images of a training and a test split, opened by the names of their data sets.

Splits that do not fit together (different classes, images without labels) raise an error here,
before anything is computed. Legend: N images, C classes.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from pretrain.common.distributed import from_main
from pretrain.common.errors import InputError
from pretrain.data.datasets import describe_images, level_hint, open_images, sorting_hint
from pretrain.data.decode import decode_image
from pretrain.data.fingerprint import ClassLabels, Fingerprint, fingerprint_of
from pretrain.data.official_lists import part_of_whole
from pretrain.data.origins import Files, Origin, Part
from pretrain.data.refused_kinds import check_kinds
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet

logger = logging.getLogger(__name__)
NEED_SAME = "; both need images of the same classes: add some, or remove the class"


class Images(Protocol):
    """Describes images that are read by their index, like those of `ImageDataset`."""

    def name(self, index: int) -> str:
        """Returns the image's name: the path of its file if it has one."""

    def read(self, index: int) -> Image.Image:
        """Returns the image in RGB; raises OSError, with the name, if it cannot be read."""

    @property
    def origin(self) -> Origin:
        """Returns where the images come from."""


@dataclass(frozen=True)
class Split:
    """Holds the labelled images of one split.

    Attributes:
        name: name of the data set.
        images: the N images.
        labels: (N,) int64; (N, C) for images with several labels: 1 present, 0 absent, -1 ignored.
        classes: names of the classes, in the order of the labels.
        left_out: what the data set does not use, by reason (see `ImageDataset`).
    """

    name: str
    images: Images
    labels: Tensor
    classes: tuple[str, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def origin(self) -> Origin:
        """Returns where the images come from."""
        return self.images.origin

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Returns the fingerprint of images and labels."""
        return fingerprint_of(self.origin, ClassLabels(self.labels.numpy(), self.classes))

    def describe(self) -> str:
        """Returns a line for the log: the numbers of images and classes, and what is left out."""
        if self.labels.dim() == 1:
            sizes = torch.bincount(self.labels, minlength=len(self.classes))
        else:
            sizes = (self.labels == 1).sum(dim=0)
        return describe_images(self.name, len(self), sizes.tolist(), self.left_out)

    def subset(self, indices: Sequence[int]) -> Split:
        """Returns the split that has the images with these indices, in their order."""
        images = Chosen(self.images, tuple(indices))
        return replace(self, images=images, labels=self.labels[list(indices)])


@dataclass(frozen=True)
class Chosen:
    """Reads some of a data set's images: image i is its image `indices[i]`."""

    images: Images
    indices: tuple[int, ...]

    @property
    def origin(self) -> Origin:
        """Returns where the images come from."""
        return Part(self.images.origin, self.indices)

    def name(self, index: int) -> str:
        """Returns the name that the data set gives the image."""
        return self.images.name(self.indices[index])

    def read(self, index: int) -> Image.Image:
        """Returns the image as the data set reads it."""
        return self.images.read(self.indices[index])


class PhotoFiles:
    """Reads the image files of a detection set."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = list(files)
        self.origin = Files(self.files)

    def name(self, index: int) -> str:
        """Returns the file's path."""
        return self.files[index]

    def read(self, index: int) -> Image.Image:
        """Returns the image in RGB, decoded by PIL; its EXIF orientation is ignored.

        Raises OSError, with the path, if the file cannot be read.
        """
        return decode_image(self.files[index], fast=False)


def open_splits(
    train: str, test: str, limit_per_class: int = 0, test_limit_per_class: int = 0
) -> tuple[Split, Split]:
    """Opens both splits. A class without images, as in a part of a data set, is left out.

    Args:
        train, test: names of the training set and of the test set.
        limit_per_class: how many of the first images of each class are used; 0: all.
        test_limit_per_class: the same for the test set.

    Raises:
        InputError: a name is empty or unknown, images are not in class folders, there are fewer
            than two classes, the splits' classes differ, or a class has only test images.
    """
    given = {"DATASETS.TRAIN folder:FOLDER:train": train, "DATASETS.TEST folder:FOLDER:val": test}
    if missing := [words for words, name in given.items() if not name]:
        raise InputError(f"the config leaves the data to you: add {' '.join(missing)}")
    first = open_split(train, limit_per_class)
    second = open_split(test, test_limit_per_class, "DATASETS.TEST_LIMIT_PER_CLASS")
    check_same_classes((train, first.classes), (test, second.classes))
    return _classes_with_images(first, second)


def check_same_classes(
    train: tuple[str, tuple[str, ...]], test: tuple[str, tuple[str, ...]]
) -> None:
    """Raises InputError unless both have the same classes in the same order.

    Args:
        train, test: the name that messages give it, and its classes.
    """
    (first, ours), (second, theirs) = train, test
    if ours == theirs:
        return
    here, there = set(ours), set(theirs)
    only = [f"{name!r} only in {first}" for name in sorted(here - there)[:3]]
    only += [f"{name!r} only in {second}" for name in sorted(there - here)[:3]]
    raise InputError(
        f"the classes of {first} and {second} differ: {'; '.join(only) or 'their order'}"
        f"{(_only_difference(here, there) or NEED_SAME) if only else ''}"
    )


def _only_difference(here: set[str], there: set[str]) -> str:
    """The end of a message about names that are equal except for something easily overlooked."""
    accents: Callable[[str], str] = lambda name: unicodedata.normalize("NFC", name)
    for what, plain in (
        ("how accents are encoded (macOS's NFD)", accents),
        ("upper and lower case", lambda name: accents(name).casefold()),
        ("spaces and case", lambda name: "".join(accents(name).casefold().split())),
    ):
        if {plain(name) for name in here} == {plain(name) for name in there}:
            return f"; the names differ only in {what}; rename the folders"
    return ""


def _classes_with_images(train: Split, test: Split) -> tuple[Split, Split]:
    there = torch.zeros(len(train.classes), dtype=torch.bool)
    there[train.labels] = True
    unknown = test.labels[~there[test.labels]]
    if len(unknown):
        name = train.classes[int(unknown[0])]
        raise InputError(
            f"{test.name} has images of the class {name!r}, but {train.name} has none; add "
            "training images or remove the class"
        )
    if there.sum() < 2:
        raise InputError(
            f"{train.name} has images of only one class; classification needs at least two classes"
        )
    classes = tuple(name for name, has in zip(train.classes, there) if has)
    position = there.cumsum(dim=0) - 1
    first, second = (
        replace(split, labels=position[split.labels], classes=classes) for split in (train, test)
    )
    return first, second


def open_object_splits(train: str, test: str) -> tuple[Split, Split]:
    """Opens a detection set's splits (VOC or COCO); the labels are the classes of the objects.

    A class is present if one of its objects is not difficult, ignored if all of them are difficult
    or crowd, and absent otherwise, as in VOC's ImageSets/Main/CLASS_trainval.txt (1, 0, -1 there).
    A class that no test image shows has no AP: it is left out of both splits, with a warning.

    Raises:
        InputError: a name is empty, `transfer.datasets.registry.open_sets` refuses it, or no test
            image shows a class of the training images.
    """
    for key, name in (("DATASETS.TRAIN", train), ("DATASETS.TEST", test)):
        if not name:
            raise InputError(f"{key} is empty: name a detection set, such as voc_2007_trainval")
    first = open_sets([train])
    splits = _object_labels(first), _object_labels(open_sets([test], like=first))
    shown = (splits[1].labels == 1).any(dim=0)
    if not shown.any():
        raise InputError(
            f"{test} has no objects of the classes of {train}; name a test set of the same classes"
        )
    missing = [name for name, there in zip(first.classes, shown) if not there]
    if missing:
        logger.warning("%s has no %s: left out of the mean", test, ", ".join(missing))
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


def open_split(
    name: str, limit_per_class: int = 0, limit_key: str = "DATASETS.LIMIT_PER_CLASS"
) -> Split:
    """Opens one split with the first `limit_per_class` images of each class (0: all).

    Its folder is listed once for all processes of a group, which must all call this.

    Raises:
        InputError: the name is unknown, images have no labels, or there is one class only.
    """
    if limit_per_class < 0:
        raise InputError(f"{limit_key} {limit_per_class} must be 0 (all) or more")
    images = from_main(None, lambda: open_images(name, limit_per_class or None))
    if len(images) == 0 or images.labels.min() < 0:
        raise InputError(
            f"{name} has no labels: classification needs one folder per class{sorting_hint(images)}"
        )
    if len(images.classes) < 2:
        raise InputError(
            f"{name} has only one class ({images.classes[0]!r}); classification needs at least two"
            f"{level_hint(images)}"
        )
    part = "" if limit_per_class else part_of_whole(name, len(images), len(images.classes))
    if part:
        logger.warning("%s has only a part of the data, %d images: %s", name, len(images), part)
    check_kinds(name, images.files())
    labels = torch.from_numpy(images.labels)
    return Split(name, images, labels, tuple(images.classes), images.left_out)
