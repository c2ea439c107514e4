"""Image classification data by name: a spec such as `folder:FOLDER:SPLIT` in, images by index out.

    folder:FOLDER:SPLIT     FOLDER/SPLIT holds one folder of images per class, or images (labels -1)
    folder:FOLDER           the same for FOLDER itself
    imagenet:train|val      the same for ROOT/imagenet/train or val
    places205:train|val     the official lists and images below ROOT/places205 (places205.py)
    inat2018:train|val      the official JSON files and images below ROOT/inat2018 (inat2018.py)
    cifar10:train|test      torchvision's files below ROOT; the same for cifar100
    food101:train|test      and other sets of natural images (natural_images.py)
    imagenet_v2:VARIANT     and other test sets of ImageNet's classes (robustness_sets.py)

ROOT is `$DETECTRON2_DATASETS`, by default `./datasets`. FOLDER is absolute or below ROOT; the last
colon separates FOLDER from SPLIT.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.checksums import faults_of, official_sums
from pretrain.data.decode import decode_image, decode_pixels, read_header
from pretrain.data.file_list import FileList
from pretrain.data.fingerprint import ClassLabels, Fingerprint, fingerprint_of
from pretrain.data.folders import describe_left_out, scan_folder
from pretrain.data.inat2018 import read_inat2018
from pretrain.data.natural_images import NAMES, read_natural
from pretrain.data.origins import Files, Origin, Part, Pixels
from pretrain.data.places205 import read_places205
from pretrain.data.robustness_sets import READERS
from pretrain.data.root import below_root, datasets_root, missing

EMPTY: Mapping[str, int] = {}  # spawned processes cannot receive a MappingProxyType


class ImageDataset(ABC):
    """Holds N images with labels, (N,) int64: `labels[i]` indexes `classes`, or is -1 if there are
    no classes.

    `left_out` counts, by suffix, the files of the same folder that are not read as images.
    """

    labels: np.ndarray
    classes: list[str]
    left_out: Mapping[str, int] = EMPTY

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Decodes one image as RGB. Raises `OSError` that names the file when it is corrupt."""

    def read_pixels(self, index: int) -> np.ndarray:
        """Returns the pixels (H, W, 3) uint8 of the image that `read` returns; raises the same
        errors.
        """
        return np.array(self.read(index))

    def size(self, index: int) -> tuple[int, int]:
        """Returns (width, height) of the image that `read` returns. Raises `OSError` for a file
        whose header cannot be read. A good header does not prove that the pixels can be decoded.
        """
        return self.read(index).size

    @abstractmethod
    def name(self, index: int) -> str:
        """Returns a readable name of one image: its path, or data set and number."""

    def describe(self, name: str) -> str:
        """Returns one line for the log about the data set of this name: images, classes, files left
        out.
        """
        labelled = self.labels[self.labels >= 0]
        counts = np.bincount(labelled, minlength=len(self.classes)).tolist()
        return describe_images(name, len(self), counts, self.left_out)

    def files(self) -> Sequence[str]:
        """Returns paths of a folder's image files; empty for other sets (the listed ones hold
        JPEGs).
        """
        return []

    @cached_property
    def origin(self) -> Origin:
        """Returns where the images come from."""
        return Files([self.name(index) for index in range(len(self))])

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Returns the identity of the data; computing it asks for the size of every file."""
        return fingerprint_of(self.origin, ClassLabels(self.labels, self.classes))

    def subset(self, indices: Sequence[int]) -> ImageDataset:
        """Returns the images at `indices`, in that order, with the same classes."""
        return SubsetImages(self, indices)


class FolderImages(ImageDataset):
    """Reads the image files of a folder, as `scan_folder` lists them."""

    def __init__(self, found: FileList) -> None:
        self.paths, self.labels, self.classes = found.paths, found.labels, found.classes
        self.left_out = found.left_out

    @cached_property
    def origin(self) -> Origin:
        """See `ImageDataset.origin`."""
        return Files(self.paths)

    def files(self) -> Sequence[str]:
        return self.paths

    def read(self, index: int) -> Image.Image:
        return decode_image(self.paths[index])

    def read_pixels(self, index: int) -> np.ndarray:
        return decode_pixels(self.paths[index])

    def size(self, index: int) -> tuple[int, int]:
        return read_header(self.paths[index]).stored_size

    def name(self, index: int) -> str:
        return self.paths[index]


class ListedImages(FolderImages):
    """Reads the image files that an official list names, in its order."""

    def files(self) -> Sequence[str]:
        return []


class ArrayImages(ImageDataset):
    """Holds decoded images in memory: `pixels (N, H, W, 3)` uint8. `unreadable` maps an index to
    the error that `read` is to raise there.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        labels: Sequence[int] | np.ndarray,
        classes: Sequence[str],
        names: Sequence[str],
        unreadable: dict[int, str] | None = None,
    ) -> None:
        self.pixels = pixels
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = list(classes)
        self.names = list(names)
        self.unreadable = unreadable or {}

    @cached_property
    def origin(self) -> Origin:
        """See `ImageDataset.origin`."""
        return Pixels(self.pixels, self.names)

    def read(self, index: int) -> Image.Image:
        if index in self.unreadable:
            raise OSError(self.unreadable[index])
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return self.names[index]


class SubsetImages(ImageDataset):
    """Reads some images of a different data set."""

    def __init__(self, whole: ImageDataset, indices: Sequence[int]) -> None:
        self.whole = whole
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = whole.labels[self.indices]
        self.classes, self.left_out = whole.classes, whole.left_out

    @cached_property
    def origin(self) -> Origin:
        """See `ImageDataset.origin`."""
        return Part(self.whole.origin, self.indices)

    def files(self) -> Sequence[str]:
        files = self.whole.files()
        return [files[index] for index in self.indices.tolist()] if files else []

    def read(self, index: int) -> Image.Image:
        return self.whole.read(self.indices[index])

    def read_pixels(self, index: int) -> np.ndarray:
        return self.whole.read_pixels(self.indices[index])

    def size(self, index: int) -> tuple[int, int]:
        return self.whole.size(self.indices[index])

    def name(self, index: int) -> str:
        return self.whole.name(self.indices[index])


def sorting_hint(images: ImageDataset) -> str:
    """Returns the remedy if images without classes are ImageNet's validation set; otherwise ""."""
    if not len(images) or "ILSVRC2012_val_" not in images.name(0):
        return ""
    return (
        "; sort ImageNet's validation images into class folders, as valprep.sh of"
        " soumith/imagenetloader.torch does"
    )


def level_hint(images: ImageDataset) -> str:
    """Returns a remedy if the only class has folders of images, which may be the classes; or ""."""
    folder = Path(images.name(0)).parent
    if len(images.classes) != 1 or folder.name == images.classes[0]:
        return ""
    return (
        f"; its images are in folders such as {folder}: if these are the classes, move them one "
        "level up, or name the folder that holds them"
    )


def open_images(spec: str, limit_per_class: int | None = None) -> ImageDataset:
    """Opens a classification data set by its spec (see the module's docstring).

    Args:
        limit_per_class: see `first_of_each_class`; None keeps all images.

    Raises `InputError` for an unknown spec, for a missing or empty folder (with the layout
    expected), and in the cases of `read_places205` and `read_inat2018`.
    """
    kind, colon, rest = spec.partition(":")
    if not colon and kind not in OPENERS:
        known = ", ".join(sorted(OPENERS))
        raise InputError(
            f"unknown data set {spec!r}; a folder of images is folder:{spec}; known: {known}"
        )
    dataset = find(kind, OPENERS, "data set", where=f"{spec!r}")(rest)
    if limit_per_class is None:
        return dataset
    return first_of_each_class(spec, dataset, limit_per_class)


def first_of_each_class(spec: str, dataset: ImageDataset, limit: int) -> ImageDataset:
    """Returns the first images of each class, in sorted order or in the order of an official list.
    If there are no classes, it is the first images of the folder. Everybody can select the same
    part again.

    Raises InputError, which names the `spec`, for a limit below 1.
    """
    if limit < 1:
        raise InputError(f"limit per class {limit} of {spec} must be at least 1")
    return dataset.subset(_first_per_class(dataset.labels, limit))


def describe_images(
    name: str, count: int, sizes: Sequence[int], left_out: Mapping[str, int] = EMPTY
) -> str:
    """Returns the content of a data set, in one line for the log.

    Args:
        sizes: the number of images of each class; empty without classes.
        left_out: see `ImageDataset`.
    """
    text = f"{name}: {count} images"
    if sizes:
        low, high = min(sizes), max(sizes)
        each = f"{low} to {high}" if low < high else f"{low}"
        text += f", {len(sizes)} classes ({each} images a class)"
    return text + (f"; left out: {describe_left_out(left_out)}" if left_out else "")


def _first_per_class(labels: np.ndarray, limit: int) -> list[int]:
    taken: dict[int, int] = {}
    indices = []
    for index, label in enumerate(labels.tolist()):
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= limit:
            indices.append(index)
    return indices


def _open_folder(rest: str) -> ImageDataset:
    folder, _, split = rest.rpartition(":")
    if not folder:  # no colon: the folder itself
        folder, split = split, ""
    if not folder:
        raise InputError(
            "data set 'folder:' does not name a folder; write folder:FOLDER:SPLIT, or folder:FOLDER"
            " for the folder itself"
        )
    return FolderImages(scan_folder(below_root(folder) / split))


def _official_opener(
    name: str, read: Callable[[Path, str], ImageDataset]
) -> Callable[[str], ImageDataset]:
    def open_official(split: str) -> ImageDataset:
        if split not in ("train", "val"):
            raise InputError(f"{name} has no split {split!r}; write {name}:train or {name}:val")
        return read(datasets_root() / name, split)

    return open_official


def _cifar_opener(number: int) -> Callable[[str], ImageDataset]:
    def open_cifar(split: str) -> ImageDataset:
        name = f"cifar{number}"
        if split not in ("train", "test"):
            raise InputError(f"{name} has no split {split!r}; write {name}:train or {name}:test")
        from torchvision import datasets  # a slow import, needed only for these sets

        reader = datasets.CIFAR10 if number == 10 else datasets.CIFAR100
        root = datasets_root()
        try:
            data = reader(str(root), train=split == "train", download=False)
        except (RuntimeError, OSError) as error:
            folder = root / reader.base_folder
            expected = (
                f"expected the files of {reader.filename}, which is the version for Python, in "
                f"{folder}: unpack it in {root}"
            )
            if not folder.is_dir():
                raise missing(folder, expected) from error
            said = faults_of(folder, official_sums(reader)) or str(error)
            raise InputError(f"{name} is damaged, or not complete: {said}; {expected}") from error
        names = [f"{name}:{split} image {index}" for index in range(len(data.data))]
        return ArrayImages(data.data, [int(t) for t in data.targets], data.classes, names)

    return open_cifar


def _natural_opener(name: str) -> Callable[[str], ImageDataset]:
    return lambda split: ListedImages(read_natural(name, datasets_root(), split))


def _robustness_opener(name: str) -> Callable[[str], ImageDataset]:
    return lambda split: FolderImages(READERS[name](datasets_root(), split))


OPENERS: dict[str, Callable[[str], ImageDataset]] = {
    "folder": _open_folder,
    "imagenet": _official_opener(
        "imagenet", lambda root, split: FolderImages(scan_folder(root / split))
    ),
    "places205": _official_opener("places205", lambda *at: ListedImages(read_places205(*at))),
    "inat2018": _official_opener("inat2018", lambda *at: ListedImages(read_inat2018(*at))),
    "cifar10": _cifar_opener(10),
    "cifar100": _cifar_opener(100),
    **{name: _natural_opener(name) for name in NAMES},
    **{name: _robustness_opener(name) for name in READERS},
}
