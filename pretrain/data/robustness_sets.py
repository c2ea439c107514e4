"""Test sets of ImageNet's classes that differ from ImageNet, in the layouts of their authors.

    imagenet_v2:matched-frequency|threshold0.7|top-images
                             imagenetv2-VARIANT-format-val/, the class folders are numbers
    imagenet_r:test          imagenet-r/, 200 of the classes
    imagenet_a:test          imagenet-a/, 200 of the classes
    imagenet_sketch:test     imagenet-sketch/ or sketch/
    imagenet_c:test|extra    imagenet-c/CORRUPTION/SEVERITY/CLASS/, also below noise/, blur/ etc.
    corrupted:FOLDER         FOLDER/CORRUPTION/SEVERITY/CLASS/: your own set in ImageNet-C's layout

Sources: modestyachts/ImageNetV2, hendrycks/imagenet-r, hendrycks/natural-adv-examples,
HaohanWang/ImageNet-Sketch, hendrycks/robustness. All paths are below the root of the data sets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import first_names
from pretrain.common.lookup import find
from pretrain.data.file_list import FileList
from pretrain.data.folders import is_hidden, scan_folder
from pretrain.data.official_lists import first_existing
from pretrain.data.root import missing

# By corruption: the archive that holds it, the error of AlexNet in percent, the mean over the five
# severities). ImageNet-C's authors divide by the latter; google-research/augmix, imagenet.py, has
# these digits, which round to table 1 of arXiv 1903.12261.
CORRUPTIONS = {
    "gaussian_noise": ("noise", 88.6428),
    "shot_noise": ("noise", 89.4468),
    "impulse_noise": ("noise", 92.2640),
    "defocus_blur": ("blur", 81.9880),
    "glass_blur": ("blur", 82.6268),
    "motion_blur": ("blur", 78.5948),
    "zoom_blur": ("blur", 79.8360),
    "snow": ("weather", 86.6816),
    "frost": ("weather", 82.6572),
    "fog": ("weather", 81.9324),
    "brightness": ("weather", 56.4592),
    "contrast": ("digital", 85.3204),
    "elastic_transform": ("digital", 64.6056),
    "pixelate": ("digital", 71.7840),
    "jpeg_compression": ("digital", 60.6500),
}
# They are meant for choosing settings, and are not a part of the mean corruption error.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = ("1", "2", "3", "4", "5")
V2 = ("matched-frequency", "threshold0.7", "top-images")


def read_v2(root: Path, split: str) -> FileList:
    """Lists ImageNet-V2, whose class folders are "0" to "999": folder i has ImageNet's class i.

    They are sorted as numbers: in the order of texts, "10" comes before "2", and 990 of the 1,000
    classes would have wrong labels.

    Raises:
        InputError: an unknown variant, a missing folder, or class folders that are not the numbers
            from 0 on.
    """
    name = f"imagenetv2-{find(split, {name: name for name in V2}, 'split of imagenet_v2')}"
    folder = first_existing(
        root, [f"{name}-format-val", name], f"{root}/{name}-format-val/{{0, ..., 999}}/*.jpeg"
    )
    found = scan_folder(folder)
    lost = {str(number) for number in range(len(found.classes))} - set(found.classes)
    odd = [name for name in found.classes if not re.fullmatch(r"0|[1-9]\d*", name)]
    if odd or lost or not found.classes:
        names = ", ".join(odd[:3] or sorted(lost, key=int)[:3])
        said = f"these folders are not: {names}" if odd else f"missing: {names or 'all'}"
        raise InputError(
            f"{folder}: the class folders of ImageNet-V2 are the numbers 0 to 999; {said}; "
            "unpack the archive again"
        )
    numbers = np.array([int(name) for name in found.classes])
    order = [str(number) for number in range(len(numbers))]
    return FileList(found.paths, numbers[found.labels], order, found.left_out)


def read_class_folders(root: Path, split: str, *, name: str, places: Sequence[str]) -> FileList:
    """Lists a set of class folders, which is at the first of the `places` below `root` that exists.

    Raises:
        InputError: an unknown split, or as `scan_folder` does.
    """
    find(split, {"test": ""}, f"split of {name}")
    return scan_folder(first_existing(root, places, f"{root / places[0]}/CLASS/*.jpg"))


def read_imagenet_c(root: Path, split: str) -> FileList:
    """Lists ImageNet-C: the 15 corruptions of its benchmark, or the 4 extra ones.

    Raises:
        InputError: an unknown split, or a corruption or a severity that is missing.
    """
    names = find(split, {"test": tuple(CORRUPTIONS), "extra": EXTRA}, "split of imagenet_c")
    folder, found = root / "imagenet-c", {}
    for name in names:
        archive = CORRUPTIONS[name][0] if name in CORRUPTIONS else "extra"
        layout = f"{folder}/{{{', '.join(names)}}}/{{1, ..., 5}}/CLASS/*.JPEG"
        found[name] = first_existing(folder, [name, f"{archive}/{name}"], layout)
    return _read_corrupted({name: (path, SEVERITIES) for name, path in found.items()})


def read_own_corrupted(root: Path, folder: str) -> FileList:
    """Lists FOLDER/CORRUPTION/SEVERITY/CLASS/*.jpg with any names of corruptions and severities.

    Raises:
        InputError: the folder is missing, or a corruption has different severities or classes.
    """
    if not folder:
        raise InputError("data set 'corrupted:' does not name a folder; write corrupted:FOLDER")
    path = root / Path(folder).expanduser()
    layout = f"expected {path}/CORRUPTION/SEVERITY/CLASS/*.jpg"
    if not path.is_dir():
        raise missing(path, layout)
    found = {name: (path / name, tuple(_folders(path / name))) for name in _folders(path)}
    if not found:
        raise InputError(f"{path} has no folders; {layout}")
    first, severities = next((name, part[1]) for name, part in found.items())
    for name, (_, own) in found.items():
        if own != severities or not own:
            raise InputError(
                f"{path}: {name} has the severities {', '.join(own) or '(none)'}, but {first} has "
                f"{', '.join(severities) or '(none)'}; a mean over them needs all; {layout}"
            )
    return _read_corrupted(found)


def corruption_of(path: str) -> tuple[str, str]:
    """Returns the corruption and the severity of an image of CORRUPTION/SEVERITY/CLASS/IMAGE."""
    corruption, severity = Path(path).parts[-4:-2]
    return corruption, severity


def _read_corrupted(places: dict[str, tuple[Path, tuple[str, ...]]]) -> FileList:
    paths: list[str] = []
    labels: list[int] = []
    classes: list[str] = []
    counts: dict[str, int] = {}
    for folder, severities in places.values():
        for severity in severities:
            part = scan_folder(folder / severity)
            if not part.classes or (classes and part.classes != classes):
                differ = first_names(sorted(set(part.classes) ^ set(classes)))
                raise InputError(
                    f"{folder / severity} has different class folders than the severities before "
                    f"it ({differ or 'none'}); unpack the data again"
                )
            classes = part.classes
            paths += part.paths
            labels += part.labels.tolist()
            for suffix, count in part.left_out.items():
                counts[suffix] = counts.get(suffix, 0) + count
    deep = next((path for path in paths if Path(path).parent.name not in set(classes)), "")
    if deep:
        raise InputError(f"{deep} is in a folder below its class folder; move it up")
    return FileList.pack(paths, labels, classes, counts)


def _folders(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    entries = sorted(os.listdir(path), key=lambda name: (len(name), name))
    return [name for name in entries if (path / name).is_dir() and not is_hidden(name)]


# By the name of a data set: its reader, which takes the root and what follows the name
READERS: dict[str, Callable[[Path, str], FileList]] = {
    "imagenet_v2": read_v2,
    "imagenet_r": lambda root, split: read_class_folders(
        root, split, name="imagenet_r", places=["imagenet-r"]
    ),
    "imagenet_a": lambda root, split: read_class_folders(
        root, split, name="imagenet_a", places=["imagenet-a"]
    ),
    "imagenet_sketch": lambda root, split: read_class_folders(
        root, split, name="imagenet_sketch", places=["imagenet-sketch", "sketch"]
    ),
    "imagenet_c": read_imagenet_c,
    "corrupted": read_own_corrupted,
}
