"""Places205 (Zhou et al. 2014) as released: its folder and a split in, images with labels out.

    trainvalsplit_places205/{train,val}_places205.csv       lines `a/abbey/IMAGE.jpg 0`
    data/vision/torralba/deeplearning/images256/a/abbey/    the images

The lists may also be in the folder itself, and the images in `images256/` or in
`imagesPlaces205_resize/`, the archive's folder. For class folders, as VISSL reads them, use
`folder:places205:train`; their classes are in alphabetical order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.data.file_list import FileList
from pretrain.data.official_lists import CLASSES, first_existing, listed_files

NUM_CLASSES = CLASSES["places205"]
LISTS = (
    "trainvalsplit_places205/{}_places205.csv",
    "trainvalsplit/trainvalsplit_places205/{}_places205.csv",
    "{}_places205.csv",
)
IMAGES = "data/vision/torralba/deeplearning/images256"
IMAGE_FOLDERS = (IMAGES, f"imagesPlaces205_resize/{IMAGES}", "images256")


def read_places205(folder: Path, split: str) -> FileList:
    """Returns the images of "train" or "val" in the list's order, labels 0 to 204 as the list has
    them.

    In both splits, a class is named after the folder of its first training image, without the
    letter ("abbey", "apartment_building/outdoor"). It is "class 7" if the training list has no
    image of it.

    Raises:
        InputError: a list or the image folder is missing (the message shows the expected layout),
            a line is not a path and a label, a label is out of range, or an image is missing.
    """
    layout = (
        f"{folder}/{{{LISTS[0].format('{train,val}')}, {IMAGES}/a/abbey/*.jpg, ...}};"
        " class folders are folder:places205:train and folder:places205:val"
    )
    images = first_existing(folder, IMAGE_FOLDERS, layout)
    paths = {
        part: first_existing(folder, [at.format(part) for at in LISTS], layout)
        for part in ("train", split)
    }
    names, labels = [], []
    for name, label in _lines(paths[split]):
        names.append(name)
        labels.append(label)
    classes = _class_names(paths["train"])
    return listed_files(paths[split], images, names, labels, classes, layout)


def _class_names(path: Path) -> list[str]:
    names: dict[int, str] = {}
    for name, label in _lines(path):
        if label not in names:
            folder = name.rpartition("/")[0]
            names[label] = folder.partition("/")[2] or folder
            if len(names) == NUM_CLASSES:
                break
    return [names.get(label, f"class {label}") for label in range(NUM_CLASSES)]


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line := line.strip():
                    yield _parse(line, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not text ({error.reason}): it is damaged, or a different file"
        ) from None


def _parse(line: str, where: str) -> tuple[str, int]:
    words = line.rsplit(maxsplit=1)
    try:
        name, label = words[0].lstrip("/"), int(words[1])
    except (IndexError, ValueError):
        wanted = "a path and a label, such as 'a/abbey/x.jpg 0'"
        raise InputError(f"{where}: {line!r} is not {wanted}; correct the line") from None
    if not 0 <= label < NUM_CLASSES:
        raise InputError(
            f"{where}: label {label} is out of range, 0 to {NUM_CLASSES - 1}; correct the line"
        )
    return name, label
