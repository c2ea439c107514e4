"""The records of a COCO file with one type each: what the reader and the evaluator both start from.

They are read from the parsed JSON: images and categories by id, and annotations with their numbers
as annotated, in float64. Ids are whole numbers or text. What is odd but clear is read and noted,
what is not is refused; both are counted in Findings. Everything is found here, before training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.data.decode import pixel_limit, too_large_image
from transfer.datasets.annotation_values import (
    EXACT,
    OTHER_TYPE,
    Id,
    as_id,
    as_number,
    find_id,
    read_number,
    read_numbers,
    shown,
)
from transfer.datasets.box_checks import ROTATED, TOLERANCE_PX, Box, BoxCheck
from transfer.datasets.coco_annotations import rotation, values
from transfer.datasets.coco_masks import Segmentation, mask_area, read_segmentation
from transfer.datasets.keypoint_checks import PlaceCheck
from transfer.datasets.keypoints import read_keypoints

NO_CROWD = "objects have no 'iscrowd' (missing or null) and count as single objects"
ODD_CROWD = "objects have an 'iscrowd' that is neither 0 nor 1, and count as crowd regions"
NO_AREA = (
    "objects have no 'area' (missing or null): that of their mask, or without a mask that of their "
    "box, is used"
)
BAD_AREA = (
    "objects have an 'area' below 0, or more than COCO's evaluator counts: that of their mask, "
    "else "
    "of their box is taken"
)
MOST_AREA = 1e10  # pixels: pycocotools ignores objects outside 0 to 1e5 squared
NOT_BOX = "boxes are not a list x, y, width, height"
SIZES = "images have no width and height in whole pixels"
NAMES = "entries have no name"
CORNERS = (
    "boxes reach beyond their image, and all would fit as x1, y1, x2, y2: is that what they are?"
)
IGNORE = "objects are marked 'ignore', which is not supported"
ZERO_AREA = (
    "objects have 'area' 0 although their box has an area: they count as small in the AP by size"
)

LARGE_AREA = (
    "objects have an 'area' larger than their box: it decides in which AP by size they count"
)


@dataclass(frozen=True)
class Image:
    """Is a record of 'images'; sizes are in pixels."""

    id: Id
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class Annotation:
    """Is a record of 'annotations': box x, y, width, height in pixels, as annotated.

    `place` is its number in the file's list, from 0. `area` is the annotated one, or the mask's
    or the box's. `segmentation` holds all polygons, short ones too, or compressed run lengths.
    `keypoints` are x, y, visibility of each one, as annotated; None if they are not asked for.
    """

    place: int
    where: str
    image: Image
    category_id: Id
    bbox: Box
    area: float
    crowd: bool
    segmentation: Segmentation | None
    keypoints: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ClearRecords:
    """Holds the places of annotations without a finding, and those of the others, ascending."""

    rows: np.ndarray
    others: np.ndarray
    may_be_corners: bool  # whether the boxes of all clear ones fit as x1, y1, x2, y2, too


def read_images(content: Mapping[str, Any], findings: Findings) -> dict[Id, Image]:
    """Returns images by ascending id; those with a bad size or name are refused and left out."""
    found = {}
    for entry in content["images"]:
        key, name = as_id(entry["id"]), entry["file_name"]
        width, height = (_side(findings, entry, side) for side in ("width", "height"))
        if not isinstance(name, str) or not name:
            where = f"{_where(entry)} (file_name {shown(name)})"
            findings.refuse(NAMES, where, "correct the file")
        elif width and height and width * height > pixel_limit():
            kind, remedy = too_large_image()
            findings.refuse(kind, f"{_where(entry)} ({width} x {height})", remedy)
        elif width and height and key is not None:
            found[key] = Image(key, name, height, width)
    return {key: found[key] for key in sorted(found)}


def _where(entry: Mapping[str, Any]) -> str:
    return f"images[id {shown(entry['id'])}]"


def _side(findings: Findings, entry: Mapping[str, Any], key: str) -> int | None:
    value = entry[key]
    if type(value) is int and 0 < value < EXACT:
        return value
    where = _where(entry)
    number = None if value is None else read_number(findings, where, key, value)
    if number is None and value is not None:
        return None  # refused already
    if number is None or number <= 0 or number % 1:
        remedy = "write the size of each image in pixels"
        findings.refuse(SIZES, f"{where} ({key} {shown(value)})", remedy)
        return None
    return int(number)


def read_categories(content: Mapping[str, Any], wanted: Collection[str] = ()) -> dict[Id, str]:
    """Returns the categories' names by ascending id; a root (see `roots`) only if `wanted`."""
    pairs, left = all_categories(content), roots([content])
    others = {name for key, name in pairs if (key, name) not in left}
    return {
        key: name
        for key, name in pairs
        if (key, name) not in left or name in wanted and name not in others
    }


def all_categories(content: Mapping[str, Any]) -> list[tuple[Id, str]]:
    """Ids and names of all categories, by ascending id."""
    return sorted(map(_key_of, content["categories"]))


def roots(contents: Sequence[Mapping[str, Any]]) -> set[tuple[Id, str]]:
    """Ids and names of categories that only hold others together, as Roboflow writes one.

    Such a category has no object in any of the files, is below no other one, and is the
    supercategory of others.
    """
    used = set().union(*map(used_categories, contents))
    found = set()
    for content in contents:
        names = {name for _, name in all_categories(content)}
        parents = [record.get("supercategory") for record in content["categories"]]
        for record, parent in zip(content["categories"], parents):
            key, name = _key_of(record)
            children = parents.count(name) - (parent == name)
            is_top = parent == name or not isinstance(parent, str) or parent not in names
            if children and is_top and (key, name) not in used:
                found.add((key, name))
    return found


def used_categories(content: Mapping[str, Any]) -> set[tuple[Id, str]]:
    """Ids and names of the categories that have an object."""
    names = dict(all_categories(content))
    used = values(content["annotations"], "category_id")
    keys = {find_id(value, names) for value in set(filter(_hashable, used))}
    return {(key, names[key]) for key in keys if key in names}


def _key_of(record: Mapping[str, Any]) -> tuple[Id, str]:
    key = as_id(record["id"])
    assert key is not None, "checked with the entries"
    return key, str(record["name"])


def read_annotations(
    content: Mapping[str, Any],
    path: Path,
    images: Mapping[Id, Image],
    categories: Mapping[Id, str],
    findings: Findings,
    *,
    scored: bool = False,
    clear: ClearRecords | None = None,
    keypoints: int = 0,
) -> Iterator[Annotation]:
    """Yields all annotations in the file's order, without those that are refused, and the clear
    ones.

    `scored`: the file is a test set: missing areas and crowd flags are noted.
    `clear`: records that were judged all at once, see `coco_clear.py`.
    `keypoints`: how many an object has; 0: they are not read.

    Raises InputError for annotations of an image or a category that is not listed.
    """
    listed = {as_id(entry["id"]) for entry in content["images"]}
    boxes, corners, records = BoxCheck(findings), _Corners(), content["annotations"]
    points_check = PlaceCheck(findings)
    places: Iterable[int] = range(len(records))
    if clear is not None:
        boxes.add_clear(len(clear.rows))
        corners.add_clear(len(clear.rows), clear.may_be_corners)
        places = clear.others
    for place in places:
        entry = records[place]
        where = f"annotation {entry['id']}"
        image_id = _reference(entry["image_id"], listed, where, findings)
        category_id = _reference(entry["category_id"], categories, where, findings)
        if image_id is None:
            _refuse_unlisted(path, content, "image", listed)
        if category_id is None:
            _refuse_unlisted(path, content, "category", categories)
        if image_id not in images:
            continue  # its record was refused
        image = images[image_id]
        found = _read(entry, place, where, image, category_id, findings, boxes, scored)
        if found is not None and keypoints:
            points = read_keypoints(findings, where, entry.get("keypoints"), keypoints)
            found = replace(found, keypoints=points)
            points_check.add(where, points or (), image.width, image.height)
        if found is not None:
            corners.add(found)
            yield found
    boxes.finish()
    points_check.finish()
    corners.finish(findings)


class _Corners:
    """Notices x1, y1, x2, y2 in place of x, y, width, height, by boxes that are too large."""

    def __init__(self) -> None:
        self._fit, self._all = True, 0
        self._beyond: list[str] = []

    def add(self, found: Annotation) -> None:
        """Takes one annotation."""
        x, y, right, low = found.bbox
        wide, high = found.image.width + TOLERANCE_PX, found.image.height + TOLERANCE_PX
        self._all += 1
        self._fit &= x < right <= wide and y < low <= high
        if x + right > wide or y + low > high:
            self._beyond.append(found.where)

    def add_clear(self, count: int, fit: bool) -> None:
        """Takes `count` annotations within their images; `fit`: whether all could be corners."""
        self._all += count
        self._fit &= fit

    def finish(self, findings: Findings) -> None:
        """Notes it, if most boxes are too large and all could be corners."""
        if self._fit and 2 * len(self._beyond) > self._all:
            for where in self._beyond:
                findings.note(CORNERS, where)


def _reference(value: Any, known: Mapping[Id, Any] | set, where: str, findings: Findings) -> Any:
    if type(value) is int and value in known:
        return value
    found = find_id(value, known) if _hashable(value) else None
    found = found if found in known else None
    if found is not None and isinstance(value, str) != isinstance(found, str):
        findings.note(OTHER_TYPE, f"{where} ({shown(value)})")
    return found


def _refuse_unlisted(
    path: Path, content: Mapping[str, Any], kind: str, known: Mapping[Id, Any] | set
) -> None:
    """Detectron2 only warns here, and trains on images that have lost their objects."""
    key = f"{kind}_id"
    lost = [
        a
        for a in content["annotations"]
        if not (_hashable(a[key]) and find_id(a[key], known) in known)
    ]
    first, count = lost[0], f"({len(lost)} such annotations)"
    value = shown(first[key])
    if kind == "image":
        raise InputError(
            f"{path}: annotation {first['id']} has the unknown image {value}, which 'images' does "
            f"not list {count}; list the image or remove these annotations"
        )
    ids = list(map(shown, known)) or ["none"]
    listing = ", ".join(ids[:10]) + (", ..." if len(ids) > 10 else "")
    raise InputError(
        f"{path}: annotation {first['id']} has the unknown category {value}; 'categories' lists "
        f"{listing} {count}; list the category or remove these annotations"
    )


def _read(
    entry: Mapping[str, Any],
    place: int,
    where: str,
    image: Image,
    category_id: Id,
    findings: Findings,
    boxes: BoxCheck,
    scored: bool,
) -> Annotation | None:
    ignore = entry.get("ignore")
    if ignore is True or ignore and read_number(findings, where, "ignore", ignore):
        findings.refuse(IGNORE, where, "use 'iscrowd'")
    bbox = _read_bbox(findings, where, entry["bbox"])
    mask = read_segmentation(findings, where, entry.get("segmentation"), image.height, image.width)
    crowd = _optional(findings, where, entry, "iscrowd", NO_CROWD, scored)
    if crowd not in (None, 0, 1):
        findings.note(ODD_CROWD, f"{where} (iscrowd {crowd:g})")
    area = _optional(findings, where, entry, "area", NO_AREA, scored)
    if area is not None and not 0 <= area <= MOST_AREA:
        findings.note(BAD_AREA, f"{where} (area {area:g})", int(scored))
        area = None
    if bbox is None or mask is None and entry.get("segmentation"):
        return None
    x, y, width, height = bbox
    if not boxes.add(where, (x, y, x + width, y + height), image.width, image.height):
        return None
    if as_number(angle := rotation(entry)):
        findings.note(ROTATED, f"{where} (rotation {shown(angle)})")
    if area == 0 < width * height:
        findings.note(ZERO_AREA, where, int(scored))
    if area is not None and area > 1.01 * (width + 1) * (height + 1):  # boxes may end at pixels
        findings.note(LARGE_AREA, f"{where} (area {area:g})", int(scored))
    if area is None and scored:
        area = mask and mask_area(mask, image.height, image.width) or width * height
    return Annotation(place, where, image, category_id, bbox, area or 0.0, bool(crowd), mask)


def _read_bbox(findings: Findings, where: str, values: Any) -> Box | None:
    if not isinstance(values, list) or len(values) != 4:
        findings.refuse(NOT_BOX, f"{where} (bbox {shown(values)})", "correct the file")
        return None
    numbers = read_numbers(findings, where, "bbox", values)
    return None if numbers is None else (numbers[0], numbers[1], numbers[2], numbers[3])


def _optional(
    findings: Findings,
    where: str,
    entry: Mapping[str, Any],
    key: str,
    without: str,
    scored: bool,
) -> float | None:
    """Returns a number that may be missing, which is noted of test sets, or null."""
    value = entry.get(key)
    if value is not None:
        return read_number(findings, where, key, int(value) if value in (True, False) else value)
    if scored or key == "iscrowd" and key in entry:
        findings.note(without, where)
    return None


def _hashable(value: Any) -> bool:
    return isinstance(value, (str, int, float))
