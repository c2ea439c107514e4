"""The natural-image sets of SimCLR's and BYOL's tables in their official layouts, below a root.

    food101:train|test               food-101/
    sun397:train|test                SUN397/, the first of its ten splits
    cars:train|test                  stanford_cars/ (Stanford Cars)
    aircraft:train|val|trainval|test fgvc-aircraft-2013b/, classes are the variants
    dtd:train|val|trainval|test      dtd/dtd/, the first of its ten splits
    pets:trainval|test               oxford-iiit-pet/
    caltech101:train|val|trainval|test   caltech101/101_ObjectCategories/, with the background
    flowers102:train|val|trainval|test   flowers-102/
    birdsnap:train|test              birdsnap/, with as many of the listed images as are there

torchvision reads the lists, from files that are there: nothing is downloaded. It has no splits of
SUN397 and Caltech-101, and no Birdsnap. Of SUN397 and Birdsnap the official lists are read;
Caltech-101 has none, and the papers draw 25 + 5 images of each class at random, as is done here
with a fixed seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import first_names
from pretrain.common.lookup import find
from pretrain.data.checksums import faults_of, official_sums
from pretrain.data.file_list import FileList
from pretrain.data.folders import scan_folder
from pretrain.data.official_lists import first_existing, listed_files
from pretrain.data.root import check_present, missing

CALTECH_TRAIN, CALTECH_VAL = 25, 5  # images of each class; the others are for testing
TRAINVAL = ("train", "val")


class Listed(NamedTuple):
    """Holds the images of a split, as a reader of torchvision lists them."""

    paths: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[str]


class NaturalSet(NamedTuple):
    """Describes a data set that torchvision reads.

    Attributes:
        reader: the name of its class in torchvision.datasets.
        files, labels: attributes of an instance; "": those of (path, label) in `_samples`.
        splits: torchvision's name of a split, by ours.
        layout: the expected files below the root.
        needs: what torchvision needs of them for a split, below the fixed part of `layout`.
        remedy: how to get them.
    """

    reader: str
    files: str
    labels: str
    splits: dict[str, tuple[str, ...]]
    layout: str
    needs: tuple[str, ...]
    remedy: str = ""


def _same(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


SETS = {
    "food101": NaturalSet(
        "Food101",
        "_image_files",
        "_labels",
        _same("train", "test"),
        "food-101/{images/CLASS/*.jpg, meta/train.json, meta/test.json}",
        ("images", "meta/{}.json"),
    ),
    "cars": NaturalSet(
        "StanfordCars",
        "",
        "",
        _same("train", "test"),
        "stanford_cars/{cars_train/*.jpg, cars_test/*.jpg, cars_test_annos_withlabels.mat, "
        "devkit/cars_train_annos.mat, devkit/cars_meta.mat}",
        ("cars_{}", "devkit/cars_meta.mat"),
        "its own server is gone and torchvision cannot download it any more: take a copy of these "
        "files from elsewhere",
    ),
    "aircraft": NaturalSet(
        "FGVCAircraft",
        "_image_files",
        "_labels",
        {**_same("train", "val", "test"), "trainval": TRAINVAL},
        "fgvc-aircraft-2013b/data/{images/*.jpg, variants.txt, "
        "images_variant_{train,val,test}.txt}",
        ("images", "variants.txt", "images_variant_{}.txt"),
    ),
    "dtd": NaturalSet(
        "DTD",
        "_image_files",
        "_labels",
        {**_same("train", "val", "test"), "trainval": TRAINVAL},
        "dtd/dtd/{images/CLASS/*.jpg, labels/{train,val,test}1.txt}",
        ("images", "labels/{}1.txt"),
    ),
    "pets": NaturalSet(
        "OxfordIIITPet",
        "_images",
        "_labels",
        _same("trainval", "test"),
        "oxford-iiit-pet/{images/*.jpg, annotations/trainval.txt, annotations/test.txt}",
        ("images", "annotations/{}.txt"),
    ),
    "flowers102": NaturalSet(
        "Flowers102",
        "_image_files",
        "_labels",
        {**_same("train", "val", "test"), "trainval": TRAINVAL},
        "flowers-102/{jpg/*.jpg, imagelabels.mat, setid.mat}",
        ("jpg", "imagelabels.mat", "setid.mat"),
    ),
}
NAMES = (*SETS, "sun397", "caltech101", "birdsnap")
DEAD = "images of the list that are not there"


def read_natural(name: str, root: Path, split: str) -> FileList:
    """Returns the images of a split, in the order of its list; of "trainval" first those of
    "train".

    Raises:
        InputError: an unknown split; a missing list or image, with the layout that is expected.
    """
    if name == "sun397":
        return _read_sun397(root, split)
    if name == "caltech101":
        return _read_caltech101(root, split)
    if name == "birdsnap":
        return _read_birdsnap(root, split)
    found = SETS[name]
    parts = find(split, found.splits, f"split of {name}")
    listed = [_by_torchvision(name, found, root, part) for part in parts]
    for part, other in zip(parts, listed):
        if list(other.classes) != list(listed[0].classes):
            differ = sorted(set(other.classes) ^ set(listed[0].classes))
            raise InputError(
                f"{name}:{split}: the lists of {parts[0]} and {part} have different classes "
                f"({first_names(differ) or 'their order'}), so a number means different classes "
                f"in them; unpack the lists again: {root}/{found.layout}"
            )
    paths = [os.path.relpath(path, root) for part in listed for path in part.paths]
    labels = [label for part in listed for label in part.labels]
    where = Path(f"the list of {name}:{split}")
    return listed_files(where, root, paths, labels, listed[0].classes, f"{root}/{found.layout}")


def _by_torchvision(name: str, found: NaturalSet, root: Path, split: str) -> Listed:
    from torchvision import datasets  # a slow import, needed only for these sets

    reader: Callable[..., Any] = getattr(datasets, found.reader)
    folder = root / found.layout.partition("/{")[0]
    remedy = found.remedy or (
        f"download it yourself: torchvision.datasets.{found.reader}({str(root)!r}, "
        f"split={split!r}, download=True)"
    )
    expected = f"{root}/{found.layout}; {remedy}"
    needed = (folder / part.format(split) for part in found.needs)
    check_present((folder, *needed), lambda: expected)
    try:
        data = reader(str(root), split=split, download=False)
        if found.files:
            paths, labels = getattr(data, found.files), getattr(data, found.labels)
        else:
            paths, labels = zip(*data._samples)
    except Exception as error:  # of many kinds: JSON, MATLAB's files and text are read there
        said = faults_of(folder, official_sums(reader)) or " ".join(str(error).split())
        raise InputError(
            f"{name}:{split} is damaged, or not complete ({said or type(error).__name__}); "
            f"expected {expected}"
        ) from error
    return Listed([str(path) for path in paths], [int(label) for label in labels], data.classes)


def _read_sun397(root: Path, split: str) -> FileList:
    """Returns lines such as /a/abbey/sun_aaalbzqrimafwbiv.jpg; a class is the folder below its
    letter.
    """
    list_name = find(
        split, {"train": "Training_01.txt", "test": "Testing_01.txt"}, "split of sun397"
    )
    folder = root / "SUN397"
    layout = (
        f"{folder}/{{a/abbey/*.jpg, ..., Partitions/Training_01.txt, Partitions/Testing_01.txt}}; "
        "the lists are in Partitions.zip; if torchvision's link to the images is dead, take a copy "
        "of SUN397.tar.gz from elsewhere"
    )
    files = {}
    for part in ("Training_01.txt", list_name):
        files[part] = first_existing(folder, [f"Partitions/{part}", part], layout)
    lines = {part: _text(file).split() for part, file in files.items()}
    names = {part: [line.lstrip("/") for line in found] for part, found in lines.items()}
    classes = sorted({_sun_class(name) for name in names["Training_01.txt"]})
    numbers = {name: number for number, name in enumerate(classes)}
    labels = []
    for name in names[list_name]:
        if _sun_class(name) not in numbers:
            raise InputError(
                f"{files[list_name]}: {name} does not belong to a class of the training list; "
                "unpack the lists again"
            )
        labels.append(numbers[_sun_class(name)])
    return listed_files(files[list_name], folder, names[list_name], labels, classes, layout)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a list of images ({error}); unpack its archive again"
        ) from error


def _sun_class(name: str) -> str:
    return "/".join(name.split("/")[1:-1])


def _read_birdsnap(root: Path, split: str) -> FileList:
    """Returns the images of the official lists, without those that are not there: the links of many
    are dead. They are counted in `left_out`.
    """
    tests = find(split, {"train": False, "test": True}, "split of birdsnap")
    folder = root / "birdsnap"
    layout = (
        f"{folder}/{{images.txt, test_images.txt, download/images/SPECIES/*.jpg}}, which the "
        "authors' get_birdsnap.py leaves there; class folders are folder:birdsnap:train and "
        "folder:birdsnap:test"
    )
    files = [first_existing(folder, [f"{name}.txt"], layout) for name in ("images", "test_images")]
    images = first_existing(folder, ["download/images", "images"], layout)
    names, held = _column(files[0], "path"), set(_column(files[1], "path"))
    if lost := sorted(held - set(names)):
        raise InputError(
            f"{files[1]}: {len(lost)} images are not in {files[0]}, such as {lost[0]}; unpack both "
            "lists of birdsnap.tgz again"
        )
    classes = sorted({name.rpartition("/")[0] for name in names})
    numbers = {name: number for number, name in enumerate(classes)}
    there = {path.relative_to(images).as_posix() for path in images.glob("*/*")}
    wanted = [name for name in names if (name in held) == tests]
    chosen = [name for name in wanted if name in there]
    if not chosen:
        raise InputError(
            f"{images} has none of the {len(wanted)} images that {files[0]} names for "
            f"birdsnap:{split}; expected {layout}"
        )
    labels = [numbers[name.rpartition("/")[0]] for name in chosen]
    found = listed_files(files[0], images, chosen, labels, classes, layout)
    dead = len(wanted) - len(chosen)
    return replace(found, left_out={DEAD: dead} if dead else {})


def _column(file: Path, name: str) -> list[str]:
    """Returns a column of a file with tabs, whose first line has the columns' names."""
    head, *lines = [line.split("\t") for line in _text(file).splitlines() if line.strip()] or [[]]
    place = head.index(name) if name in head else -1
    if place < 0 or any(len(line) <= place for line in lines):
        raise InputError(
            f"{file} is not a list with tabs that has the column {name!r} in each line; unpack "
            "birdsnap.tgz again"
        )
    return [line[place].strip() for line in lines]


def _read_caltech101(root: Path, split: str) -> FileList:
    wanted = {"train": (True, False), "val": (False, True), "trainval": (True, True)}
    takes = find(split, {**wanted, "test": (False, False)}, "split of caltech101")
    folder = root / "caltech101" / "101_ObjectCategories"
    if not folder.is_dir():
        raise missing(folder, "unpack 101_ObjectCategories.tar.gz of caltech-101.zip there")
    found = scan_folder(folder)
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    for label, name in enumerate(found.classes):
        rows = np.flatnonzero(found.labels == label)
        if len(rows) <= CALTECH_TRAIN + CALTECH_VAL:
            raise InputError(
                f"{folder}/{name} has {len(rows)} images; more than "
                f"{CALTECH_TRAIN + CALTECH_VAL} are needed, to train, to validate and to test"
            )
        drawn = rng.permutation(rows)
        parts = np.split(drawn, [CALTECH_TRAIN, CALTECH_TRAIN + CALTECH_VAL])
        use = (*takes, not any(takes))
        chosen += sorted(row for part, used in zip(parts, use) if used for row in part.tolist())
    paths = [found.paths[row] for row in chosen]
    return FileList.pack(paths, found.labels[chosen].tolist(), found.classes)
