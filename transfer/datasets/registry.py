"""Names of detection data sets -> DetectionSets.

In: names as they stand in DATASETS.TRAIN and DATASETS.TEST: Detectron2's built-in ones,
`voc:FOLDER:SPLIT` and `coco:FOLDER:SPLIT` (FOLDER absolute or below the data sets' root; the last
colon separates); any of them may end in @P% or @Kshot, for the part that `few_labels` picks.
Out: the sets, all with the same classes in the same order. The classes are those of the training
sets' annotations unless they are listed; a test class outside them is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.datasets import datasets_root
from transfer.datasets import coco, voc
from transfer.datasets.few_labels import Part, few_labels, split_part
from transfer.datasets.samples import DetectionSet


@dataclass(frozen=True)
class Location:
    """Where a split lies: a VOC folder, or a COCO JSON file with its image folder."""

    layout: str
    folder: Path
    split: str
    annotation_file: Path | None = None
    num_classes: int | None = None  # of a built-in set; None: whatever the annotations hold
    part: Part | None = None  # None: all images


# name -> layout, folder below the root, split, number of classes
BUILTIN = {
    "voc_2007_trainval": ("voc", "VOC2007", "trainval", 20),
    "voc_2007_test": ("voc", "VOC2007", "test", 20),
    "voc_2012_trainval": ("voc", "VOC2012", "trainval", 20),
    "coco_2017_train": ("coco", "coco", "train2017", 80),
    "coco_2017_val": ("coco", "coco", "val2017", 80),
}


def locate(name: str) -> Location:
    """Where the set of this name lies. Raises InputError for an unknown or malformed name."""
    whole, part = split_part(name)
    if part is not None:
        return replace(locate(whole), part=part)
    kind, _, rest = name.partition(":")
    if kind in ("voc", "coco") and rest:
        folder_text, _, split = rest.rpartition(":")
        if not folder_text or not split:
            raise InputError(f"data set '{name}' needs the form {kind}:FOLDER:SPLIT")
        return _location(kind, _folder(folder_text), split, None)
    if ":" in name:
        raise InputError(
            f"{name!r} is no detection data set; give voc:FOLDER:SPLIT, coco:FOLDER:SPLIT, or one "
            f"of {', '.join(sorted(BUILTIN))}"
        )
    layout, folder_name, split, num_classes = find(name, BUILTIN, "detection data set")
    return _location(layout, datasets_root() / folder_name, split, num_classes)


def open_sets(
    names: Sequence[str],
    classes: Sequence[str] = (),
    like: DetectionSet | None = None,
    *,
    scored: Sequence[str] = (),
    draw: int | None = None,
) -> DetectionSet:
    """One DetectionSet of all the named splits, one after the other.

    `classes` lists the classes by hand; `like` (the training set) gives them to a test set.
    `scored`: what is to be scored on the set, of "bbox" and "segm"; a COCO file needs more then.
    `draw`: which draw of the names that end in @Kshot; each of them draws for itself. Without one
    they are refused: to a test set or a classifier the lost labels would be wrong labels.
    Raises InputError for anything missing, malformed or contradictory.
    """
    if not names:
        raise InputError("no data set is named: set DATASETS.TRAIN and DATASETS.TEST")
    locations = [locate(name) for name in names]
    layouts = {location.layout for location in locations}
    if len(layouts) > 1:
        raise InputError(f"data sets {', '.join(names)} mix VOC and COCO layouts")
    if not classes:
        classes = like.classes if like else _classes(locations)
    if len(set(classes)) != len(classes):
        raise InputError(f"a class is listed twice: {', '.join(classes)}")
    name = "+".join(names)
    if layouts == {"voc"}:
        return _open_voc(name, locations, tuple(classes), draw)
    return _open_coco(name, locations, tuple(classes), scored, draw)


def class_names(names: Sequence[str]) -> tuple[str, ...]:
    """The classes of the named sets in their own order, without their images; see `open_sets`."""
    return _classes([locate(name) for name in names])


def _location(layout: str, folder: Path, split: str, num_classes: int | None) -> Location:
    if layout == "voc":
        return Location(layout, folder, split, None, num_classes)
    annotation_file = folder / "annotations" / f"instances_{split}.json"
    return Location(layout, folder, split, annotation_file, num_classes)


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    return path if path.is_absolute() else datasets_root() / path


def _classes(locations: Sequence[Location]) -> tuple[str, ...]:
    found: list[tuple[str, ...]] = []
    for location in locations:
        if location.layout == "coco":
            content = coco.read_json(_json(location), location.folder / location.split)
            found.append(tuple(coco.read_categories(content).values()))
        elif location.num_classes:
            found.append(voc.VOC_CLASSES)
        else:
            voc.check_layout(location.folder, location.split)
            found.append(voc.read_classes(location.folder))
    if locations[0].layout == "coco":
        if any(other != found[0] for other in found):
            raise InputError("the COCO files of DATASETS.TRAIN list different categories")
        return found[0]
    return tuple(sorted(set().union(*found)))


def _open_voc(
    name: str, locations: Sequence[Location], classes: tuple[str, ...], draw: int | None
) -> DetectionSet:
    read = [voc.read_voc(place.folder, place.split, classes) for place in locations]
    samples = [few_labels(s, place.part, classes, draw) for s, place in zip(read, locations)]
    ids = tuple(range(1, len(classes) + 1))
    return DetectionSet(name, "voc", tuple(s for part in samples for s in part), classes, ids)


def _open_coco(
    name: str,
    locations: Sequence[Location],
    classes: tuple[str, ...],
    scored: Sequence[str],
    draw: int | None,
) -> DetectionSet:
    samples, ids = [], {}
    for place in locations:
        path = _json(place)
        folder = place.folder / place.split
        content = coco.read_json(path, folder)
        read = coco.read_coco(path, folder, content, classes, scored=scored)
        samples.extend(few_labels(read, place.part, classes, draw))
        ids.update({name: key for key, name in coco.read_categories(content).items()})
    # A class of the training set that a test file does not list gets an id no annotation has.
    category_ids = tuple(ids.get(name, -1 - i) for i, name in enumerate(classes))
    annotation_file = _json(locations[0]) if len(locations) == 1 else None
    return DetectionSet(name, "coco", tuple(samples), classes, category_ids, annotation_file)


def _json(location: Location) -> Path:
    if location.annotation_file is None:
        raise InputError(f"{location.folder} has no COCO annotation file")
    return location.annotation_file
