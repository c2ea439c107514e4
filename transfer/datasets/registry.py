"""Opens detection data sets by their names, as DetectionSets.

The names are those of DATASETS.TRAIN and DATASETS.TEST: Detectron2's built-in ones,
`voc:FOLDER:SPLIT`, `coco:FOLDER:SPLIT` and `coco:FILE.json:IMAGES`, any COCO file and any folder of
images, `lvis:FILE.json:IMAGES`, or `cityscapes:FOLDER:SPLIT`. Paths are absolute or below the data
sets' root; the last colon separates, or that after .json. Any name may end in @P% or @Kshot, for
the part that `few_labels` picks.
All sets of a run have the same classes in the same order. The classes are those of the training
sets' annotations unless they are listed; a test class with objects outside them is an error.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.lookup import find, near_matches
from pretrain.data.root import below_root, datasets_root, missing
from transfer.datasets import cityscapes, coco, lvis, voc
from transfer.datasets.cityscapes_labels import check_classes
from transfer.datasets.few_labels import Part, few_labels, split_part
from transfer.datasets.keypoints import read_keypoint_names
from transfer.datasets.sample_columns import joined
from transfer.datasets.samples import DetectionSet, Sample
from transfer.datasets.voc_boxes import COUNTS_FROM


@dataclass(frozen=True)
class Location:
    """Says where a split is: a VOC folder, or a COCO JSON file with its image folder."""

    layout: str
    folder: Path
    split: str
    annotation_file: Path | None = None
    images: Path | None = None  # the folder of a COCO file's images
    num_classes: int | None = None  # only a built-in set has it; None: the annotations decide
    part: Part | None = None  # None: all images
    is_pair: bool = False  # named as file and folder, in any layout


# by name: layout, folder below the root, split, number of classes, and what a COCO file's name
# begins with
BUILTIN = {
    "voc_2007_trainval": ("voc", "VOC2007", "trainval", 20, ""),
    "voc_2007_test": ("voc", "VOC2007", "test", 20, ""),
    "voc_2012_trainval": ("voc", "VOC2012", "trainval", 20, ""),
    "coco_2017_train": ("coco", "coco", "train2017", 80, "instances"),
    "coco_2017_val": ("coco", "coco", "val2017", 80, "instances"),
    "keypoints_coco_2017_train": ("coco", "coco", "train2017", 1, "person_keypoints"),
    "keypoints_coco_2017_val": ("coco", "coco", "val2017", 1, "person_keypoints"),
    "lvis_v1_train": ("lvis", "lvis", "v1_train", 1203, ""),
    "lvis_v1_val": ("lvis", "lvis", "v1_val", 1203, ""),
    "cityscapes_fine_instance_seg_train": ("cityscapes", "cityscapes", "train", 8, ""),
    "cityscapes_fine_instance_seg_val": ("cityscapes", "cityscapes", "val", 8, ""),
}

FORMS = {
    "voc": "voc:FOLDER:SPLIT",
    "coco": "coco:FOLDER:SPLIT or coco:FILE.json:IMAGES",
    "lvis": "lvis:FILE.json:IMAGES",
    "cityscapes": "cityscapes:FOLDER:SPLIT",
}
JSON_FILES = ("coco", "lvis")  # layouts of a JSON file with a folder of images


def locate(name: str) -> Location:
    """Returns where the set of this name is. Raises InputError for an unknown or malformed name."""
    whole, part = split_part(name)
    if part is not None:
        return replace(locate(whole), part=part)
    kind, _, rest = name.partition(":")
    if kind in FORMS and rest:
        pair = _split_pair(rest) if kind in JSON_FILES else None
        if pair is not None:
            file, images = map(below_root, pair)
            return Location(kind, file.parent, images.name, file, images, is_pair=True)
        folder_text, _, split = rest.rpartition(":")
        if not folder_text or not split or kind == "lvis" or kind == "coco" and _is_json(rest):
            raise InputError(f"data set '{name}' needs the form {FORMS[kind]}")
        return _location(kind, below_root(folder_text), split, None)
    if ":" in name:
        raise InputError(
            f"{name!r} is not a detection data set; give {', '.join(FORMS.values())}, or one of "
            f"{', '.join(sorted(BUILTIN))}"
        )
    if name not in BUILTIN:
        raise InputError(
            f"unknown detection data set {name!r}{near_matches(name, BUILTIN)}; give "
            f"{', '.join(FORMS.values())} for your own, or one of {', '.join(sorted(BUILTIN))}"
        )
    layout, folder_name, split, num_classes, begin = BUILTIN[name]
    return _location(layout, datasets_root() / folder_name, split, num_classes, begin)


def is_detection_name(name: str) -> bool:
    """Returns whether this is the form of a detection data set's name, and not of a folder's."""
    return name.partition(":")[0] in FORMS or split_part(name)[0] in BUILTIN


def open_sets(
    names: Sequence[str],
    classes: Sequence[str] = (),
    like: DetectionSet | None = None,
    *,
    scored: Sequence[str] = (),
    draw: int | None = None,
    voc_counts_from: str = "auto",
    keypoints: int = 0,
) -> DetectionSet:
    """Returns one DetectionSet of all the named splits, one after the other.

    `classes` lists the classes by hand; `like` (the training set) gives them to a test set.
    `scored`: what is to be scored on the set, of "bbox" and "segm"; a COCO file needs more then.
    `keypoints`: how many an object has; 0: as many as those of `like`, or they are not read.
    `draw`: which draw of the names that end in @Kshot; each of them draws for itself. Without one
    they are refused: to a test set or a classifier the lost labels would be wrong labels.
    `voc_counts_from`: see TRANSFER.VOC_COUNTS_FROM in `detection/defaults.py`.
    Raises InputError for anything missing, malformed or contradictory.
    """
    if not names:
        raise InputError("no data set is named: set DATASETS.TRAIN and DATASETS.TEST")
    zero_based = find(voc_counts_from, COUNTS_FROM, "value", "TRANSFER.VOC_COUNTS_FROM")
    locations = [locate(name) for name in names]
    layouts = {location.layout for location in locations}
    if len(layouts) > 1:
        mixed = " and ".join(sorted(map(str.upper, layouts), reverse=True))
        raise InputError(f"data sets {', '.join(names)} mix {mixed} layouts; use only one layout")
    if not classes and like:
        classes = like.classes
    if len(set(classes)) != len(classes):
        raise InputError(f"a class is listed twice: {', '.join(classes)}; list it once")
    name = "+".join(names)
    if layouts == {"cityscapes"}:
        return _open_cityscapes(name, locations, classes, draw)
    if layouts == {"voc"}:
        return _open_voc(name, locations, tuple(classes) or _classes(locations), draw, zero_based)
    keypoints = keypoints or (like.num_keypoints if like else 0)
    return _open_coco(name, locations, tuple(classes), scored, draw, keypoints)


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the classes of the named sets in their own order, without their images; see
    `open_sets`.
    """
    locations = [locate(name) for name in names]
    if {location.layout for location in locations} <= set(JSON_FILES):
        return coco.read_classes([_read(place, 0) for place in locations])
    if locations[0].layout == "cityscapes":
        return cityscapes.CLASSES
    return _classes(locations)


def _location(
    layout: str, folder: Path, split: str, num_classes: int | None, begin: str = "instances"
) -> Location:
    if layout in ("voc", "cityscapes"):
        return Location(layout, folder, split, num_classes=num_classes)
    if layout == "lvis":  # its images are COCO's; each entry names the folder
        annotation_file = folder / f"lvis_{split}.json"
        return Location(layout, folder, split, annotation_file, folder.parent / "coco", num_classes)
    annotation_file = folder / "annotations" / f"{begin}_{split}.json"
    images = folder / split
    return Location(layout, folder, split, annotation_file, images, num_classes)


def _split_pair(text: str) -> tuple[str, str] | None:
    """Returns FILE.json and IMAGES; None for FOLDER:SPLIT.

    A file that is there counts whatever its suffix, otherwise the last name that ends in .json.
    """
    ends = [found.start() for found in re.finditer(":(?=.)", text)]
    pairs = [(text[:end], text[end + 1 :]) for end in ends]
    there = next((pair for pair in pairs if below_root(pair[0]).is_file()), None)
    named = [pair for pair in pairs if _is_json(pair[0])]
    if there or not named or below_root(named[-1][0]).is_dir():
        return there
    return named[-1]


def _is_json(text: str) -> bool:
    """Returns whether a name ends in a JSON file, without a folder of images."""
    return text.rstrip(":").lower().endswith(".json")


def _classes(locations: Sequence[Location]) -> tuple[str, ...]:
    """Of VOC folders."""
    found: list[tuple[str, ...]] = []
    for location in locations:
        if location.num_classes:
            found.append(voc.VOC_CLASSES)
        else:
            voc.check_layout(location.folder, location.split)
            found.append(voc.read_classes(location.folder))
    return tuple(sorted(set().union(*found)))


def _open_cityscapes(
    name: str, locations: Sequence[Location], classes: Sequence[str], draw: int | None
) -> DetectionSet:
    check_classes(name, classes, cityscapes.CLASSES)
    parts = [
        few_labels(
            cityscapes.read_cityscapes(place.folder, place.split),
            place.part,
            cityscapes.CLASSES,
            draw,
        )
        for place in locations
    ]
    samples = tuple(sample for part in parts for sample in part)
    own = cityscapes.CLASSES, cityscapes.CATEGORY_IDS
    return DetectionSet(name, "cityscapes", samples, *own)


def _open_voc(
    name: str,
    locations: Sequence[Location],
    classes: tuple[str, ...],
    draw: int | None,
    zero_based: bool | None,
) -> DetectionSet:
    read = [
        # The official sets count from 1, whatever a single coordinate says.
        voc.read_voc(p.folder, p.split, classes, False if p.num_classes else zero_based)
        for p in locations
    ]
    samples = [few_labels(s, place.part, classes, draw) for s, place in zip(read, locations)]
    ids = tuple(range(1, len(classes) + 1))
    return DetectionSet(name, "voc", tuple(s for part in samples for s in part), classes, ids)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector of cycles, which there are none of, looks at all records again and again:
    a tenth of the time to read COCO."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_without_collector()
def _open_coco(
    name: str,
    locations: Sequence[Location],
    classes: tuple[str, ...],
    scored: Sequence[str],
    draw: int | None,
    keypoints: int,
) -> DetectionSet:
    pairs = [_pair(place) for place in locations]
    contents: list[Mapping[str, Any]] = [_read(place, keypoints) for place in locations]
    keypoint_names = _keypoint_names(pairs, contents, keypoints)
    classes = classes or coco.read_classes(contents)
    parts: list[Sequence[Sample]] = []
    ids: dict[str, int | str] = {}
    for place, pair, content in zip(locations, pairs, contents):
        read = coco.read_coco(*pair, content, classes, scored=scored, keypoints=keypoints)
        parts.append(few_labels(read, place.part, classes, draw))
        ids.update({name: key for key, name in coco.read_categories(content, classes).items()})
    # A class of the training set that a test file does not list gets an id no category has.
    lowest = min([0, *(key for key in ids.values() if isinstance(key, int))])
    category_ids = tuple(ids.get(name, lowest - 1 - i) for i, name in enumerate(classes))
    return DetectionSet(
        name,
        locations[0].layout,
        joined(parts),
        classes,
        category_ids,
        annotation_file=pairs[0][0] if len(pairs) == 1 else None,
        num_keypoints=keypoints,
        keypoint_names=keypoint_names,
    )


def _keypoint_names(
    pairs: Sequence[tuple[Path, Path]], contents: Sequence[Mapping[str, Any]], count: int
) -> tuple[str, ...]:
    """Of all the files, () without keypoints. Raises InputError if they differ."""
    if not count:
        return ()
    found = [read_keypoint_names(pair[0], content, count) for pair, content in zip(pairs, contents)]
    if any(names != found[0] for names in found):
        files = ", ".join(str(pair[0]) for pair in pairs)
        raise InputError(f"{files} name different keypoints; train on those of one kind")
    return found[0]


def _read(location: Location, keypoints: int) -> dict[str, Any]:
    pair = _pair(location)
    if location.layout == "coco":
        return coco.read_json(*pair, keypoints > 0)
    if keypoints:
        raise InputError(f"{pair[0]}: LVIS has no keypoints; set MODEL.KEYPOINT_ON False")
    return lvis.read_json(*pair)


def _pair(location: Location) -> tuple[Path, Path]:
    if location.annotation_file is None or location.images is None:
        raise InputError(
            f"{location.folder} has no COCO annotation file; name a split that is annotated"
        )
    pair = location.annotation_file, location.images
    for path, what in zip(pair, ("file", "folder of images")):
        if location.is_pair and not path.exists():
            name = f"{location.layout}:{pair[0]}:{pair[1]}"
            raise missing(path, f"expected the {what} of {name}")
    if location.is_pair and not pair[1].is_dir():
        raise InputError(f"{pair[1]} is not a folder; name the folder of the images of {pair[0]}")
    return pair
