"""ADE20K (the Scene Parsing Challenge 2016) as its archive unpacks, without a step of preparation.

The names are Detectron2's, which reads prepared masks. These masks are the official ones, whose
numbers a table translates to classes and to 255, which is not used. ADEChallengeData2016/ has
images/{training,validation}/*.jpg, annotations/ with the same names as .png, and objectInfo150.txt
with the names of the 150 classes. In a mask 1 to 150 are classes, and 0 is everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.data.folders import IMAGE_SUFFIXES
from transfer.datasets.voc_lists import FileIndex

UNUSED = 255
ADE20K_CLASSES = 150


class Pair(NamedTuple):
    """An image and its mask."""

    image: str
    mask: str
    image_id: str


class Layout(NamedTuple):
    """Where a data set has its files.

    Attributes:
        folder: below the data sets' root.
        images, masks: folders of a split in it.
        tree: the expected files, for messages.
        numbers: 256 bytes, number in a mask -> class, or 255.
    """

    folder: str
    images: str
    masks: str
    tree: str
    numbers: bytes


def read_classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of ADE20K's classes from the last column of its objectInfo150.txt."""
    file = folder / "objectInfo150.txt"
    try:
        lines = read_regular(file, MEGABYTE).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}, which names ADE20K's classes, cannot be read ({error}); it is part of "
            "ADEChallengeData2016.zip"
        ) from None
    names = tuple(line.split("\t")[-1].strip() for line in lines[1:] if line.strip())
    if len(names) != ADE20K_CLASSES or not all(name.isprintable() and name for name in names):
        raise InputError(
            f"{file} must have a line of titles and {ADE20K_CLASSES} lines with the name of a "
            f"class behind the last tab, found {len(names)}; unpack ADEChallengeData2016.zip again"
        )
    return names


def _ade20k(split: str) -> Layout:
    tree = "{images/%s/*.jpg, annotations/%s/*.png, objectInfo150.txt}" % (split, split)
    numbers = bytes([UNUSED, *range(255)])  # beyond the classes it is refused
    return Layout(
        "ADEChallengeData2016",
        f"images/{split}",
        f"annotations/{split}",
        tree,
        numbers,
    )


LAYOUTS: Mapping[str, Layout] = {
    "ade20k_sem_seg_train": _ade20k("training"),
    "ade20k_sem_seg_val": _ade20k("validation"),
}


def read_pairs(layout: Layout, root: Path) -> list[Pair]:
    """Returns all images of a split, by name, with their masks.

    Raises:
        InputError: a folder or masks are missing; the message shows the expected tree.
    """
    folder = root / layout.folder
    for part in (layout.images, layout.masks):
        if not (folder / part).is_dir():
            raise InputError(f"{folder / part} is missing; expected {folder}/{layout.tree}")
    images = FileIndex(folder / layout.images, IMAGE_SUFFIXES)
    masks = FileIndex(folder / layout.masks, [".png"])
    findings, pairs = Findings(str(folder / layout.images)), []
    for name in images:
        mask = masks.path(name)
        if mask is None:
            where = f"{folder / layout.masks / name}.png"
            findings.refuse("masks of images are missing", where, f"expected {layout.tree}")
        else:
            pairs.append(Pair(str(images.path(name)), str(mask), name))
    findings.report()
    if not pairs:
        raise InputError(f"{folder / layout.images} has no image; expected {folder}/{layout.tree}")
    return pairs
