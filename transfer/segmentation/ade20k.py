"""ADE20K (the Scene Parsing Challenge 2016) as its archive unpacks, without a step of preparation.

The names are Detectron2's, which reads prepared masks. These masks are the official ones, whose
numbers a table translates to classes and to 255, which is not used. ADEChallengeData2016/ has
images/{training,validation}/*.jpg, annotations/ with the same names as .png, and objectInfo150.txt
with the names of the 150 classes. In a mask 1 to 150 are classes, and 0 is everything else.
"""

from __future__ import annotations

from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.data.folders import IMAGE_SUFFIXES
from pretrain.data.root import check_present
from transfer.datasets.truth_files import Files, pair_files
from transfer.datasets.voc_lists import FileIndex

ADE20K_CLASSES = 150
# By number in a mask: class, or 255, which is not used; a number beyond the classes is refused
NUMBERS = bytes([255, *range(255)])


def read_classes(folder: Path) -> tuple[str, ...]:
    """Returns the names of ADE20K's classes from the last column of its objectInfo150.txt.

    Raises InputError if the file is missing or does not have the names of all classes.
    """
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


def read_files(folder: Path, split: str) -> list[Files]:
    """Returns all images of a split, by name, with their masks.

    Raises:
        InputError: a folder or masks are missing; the message shows the expected tree.
    """
    image_folder, mask_folder = folder / "images" / split, folder / "annotations" / split
    tree = f"{folder}/{{images/{split}/*.jpg, annotations/{split}/*.png, objectInfo150.txt}}"
    check_present((image_folder, mask_folder), lambda: tree)
    images, masks = FileIndex(image_folder, IMAGE_SUFFIXES), FileIndex(mask_folder, [".png"])
    found = [
        (name, image, [masks.path(name) or mask_folder / f"{name}.png"])
        for name in images
        if (image := images.path(name))
    ]
    return pair_files(found, image_folder, mask_folder, tree)
