"""Images that an official list names: a list in, its images with labels out, none of them missing.

The check lists each folder that occurs in the list once, and compares. Even for millions of images
this costs no more than reading class folders. It opens no image; a damaged one raises an error that
names it when it is read.
"""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.lookup import folded
from pretrain.common.printable import shown
from pretrain.data.file_list import FileList
from pretrain.data.root import missing

QUIET_SECONDS = 2.0  # a shorter check shows no progress bar
# The official numbers of images, and of classes. Places205: Zhou et al., NIPS 2014 (100 validation
# images per class); iNaturalist 2018: visipedia/inat_comp 2018/README.md; the natural-image sets:
# BYOL (arXiv 2006.07733), table 10; those of ImageNet's classes: the authors' papers, but for
# ImageNet-Sketch its archive, which has 889 images more than its README says.
IMAGES = {
    "imagenet:train": 1_281_167,
    "imagenet:val": 50_000,
    "places205:train": 2_448_873,
    "places205:val": 20_500,
    "inat2018:train": 437_513,
    "inat2018:val": 24_426,
    "food101:train": 75_750,
    "food101:test": 25_250,
    "sun397:train": 19_850,
    "sun397:test": 19_850,
    "cars:train": 8_144,
    "cars:test": 8_041,
    "aircraft:trainval": 6_667,
    "aircraft:test": 3_333,
    "dtd:trainval": 3_760,
    "dtd:test": 1_880,
    "pets:trainval": 3_680,
    "pets:test": 3_669,
    "caltech101:trainval": 3_060,
    "caltech101:test": 6_084,
    "flowers102:trainval": 2_040,
    "flowers102:test": 6_149,
    "birdsnap:train": 47_386,
    "birdsnap:test": 2_443,
    "imagenet_v2:matched-frequency": 10_000,
    "imagenet_v2:threshold0.7": 10_000,
    "imagenet_v2:top-images": 10_000,
    "imagenet_r:test": 30_000,
    "imagenet_a:test": 7_500,
    "imagenet_sketch:test": 50_889,
    "imagenet_c:test": 3_750_000,
    "imagenet_c:extra": 1_000_000,
}
CLASSES = {
    "imagenet": 1000,
    "places205": 205,
    "inat2018": 8142,
    "food101": 101,
    "sun397": 397,
    "cars": 196,
    "aircraft": 100,
    "dtd": 47,
    "pets": 37,
    "caltech101": 102,
    "flowers102": 102,
    "birdsnap": 500,
    "imagenet_v2": 1000,
    "imagenet_r": 200,
    "imagenet_a": 200,
    "imagenet_sketch": 1000,
    "imagenet_c": 1000,
}


def first_existing(folder: Path, places: Sequence[str], layout: str) -> Path:
    """Returns the first of the places in `folder` that exists.

    Raises InputError with the expected layout if none exists.
    """
    for place in places:
        if (folder / place).exists():
            return folder / place
    raise missing(folder / places[0], f"expected {layout}")


def listed_files(
    source: Path,
    folder: Path,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Sequence[str],
    layout: str,
) -> FileList:
    """Returns the files `folder / name` of an official list, in its order.

    Raises InputError if some do not exist, with their number and one of them, and for a label that
    is not the number of a class.

    Args:
        source: the list's file, for the message.
        layout: the layout that is expected on the disk, for the message.
    """
    _check_existence(source, folder, names, layout)
    for name, label in zip(names, labels):
        if not 0 <= label < len(classes):
            raise InputError(
                f"{source}: {name} has the class number {label}, but the lists name "
                f"{len(classes)} classes, 0 to {len(classes) - 1}; unpack them again, or correct "
                "the lists of your part of the set so that the numbers have no gaps"
            )
    paths = (os.path.join(folder, name) for name in names)
    return FileList.pack(paths, labels, classes)


def _check_existence(source: Path, folder: Path, names: Sequence[str], layout: str) -> None:
    if not names:
        raise InputError(f"{source} does not name any images; expected {layout}")
    wanted: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
            raise InputError(
                f"{source}: {shown(name)} is not the path of an image below {folder}; correct it"
            )
        parent, _, file = name.rpartition("/")
        wanted[parent].append(file)
    missing, first = 0, ""
    folders = progress(
        wanted.items(), desc=f"check {source.name}", leave=False, delay=QUIET_SECONDS
    )
    for parent, files in folders:
        found = _file_names(folder / parent)
        lost = [file for file in files if file not in found]
        missing += len(lost)
        if lost and not first:
            first = f"{folder / parent / lost[0]}{_spelled(lost[0], found)}"
    if missing:
        raise InputError(
            f"{source} names {len(names)} images; {missing} of them do not exist, such as {first};"
            f" expected {layout}"
        )


def _spelled(name: str, found: set[str]) -> str:
    """Returns a phrase if a file differs from a name only in letter case or its form of accents."""
    like = next((one for one in sorted(found) if folded(one) == folded(name)), "")
    return f" (there is {like}: rename it)" if like else ""


def part_of_whole(name: str, images: int, classes: int) -> str:
    """Returns a phrase if a built-in set, such as "imagenet:val", is only a part of the official
    set; otherwise "".

    A part is not an error, because people use small parts to try things. But its results are not
    comparable.
    """
    wanted = CLASSES.get(name.partition(":")[0])
    if wanted and classes != wanted:
        return f"the whole set has {wanted} classes"
    if images != IMAGES.get(name, images):
        return f"the whole set has {IMAGES[name]} images"
    return ""


def _file_names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file's name contains a NUL
        return set()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return set()
