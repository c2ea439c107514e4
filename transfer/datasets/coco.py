"""Reads a data set in COCO's layout.

In: a JSON file with images, annotations and categories, and the folder of its images. Out: Samples
with the semantics of Detectron2 (data/datasets/coco.py): images sorted by id, categories sorted by
id, polygons with fewer than six numbers dropped and objects left with none skipped, crowd regions
kept with their flag. Masks may also be run lengths (RLE). Boxes become XYXY. What Detectron2
tolerates (short polygons, boxes without area) is counted in one warning; what contradicts itself is
an error (`coco_checks.py`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.lookup import near_matches
from transfer.datasets.coco_checks import check_box, check_entries, check_scorable
from transfer.datasets.samples import AREALESS, Instance, Sample

SHORT_POLYGON = "polygons with fewer than 3 points, or half a point, were dropped"
NO_POLYGON = "objects without any other polygon were skipped"


def read_json(path: Path, image_folder: Path) -> dict[str, Any]:
    """The parsed file. Raises InputError when it, or the image folder, is missing or malformed."""
    for needed in (path, image_folder):
        if not needed.exists():
            raise InputError(
                f"{needed} is missing; expected {image_folder.parent}/"
                f"{{{path.parent.name}/{path.name}, {image_folder.name}/*.jpg}}"
            )
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid JSON ({error}): truncated or damaged") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"{path} has no list '{key}': not a COCO instances file")
    if not content["images"]:
        raise InputError(f"{path} lists no image")
    check_entries(path, content)
    return content


def read_categories(content: Mapping[str, Any]) -> dict[int, str]:
    """Category id -> name, by ascending id."""
    return {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}


def read_coco(
    path: Path,
    image_folder: Path,
    content: Mapping[str, Any],
    classes: Sequence[str],
    *,
    scored: Sequence[str] = (),
) -> tuple[Sample, ...]:
    """All images of the file, by ascending id; category i is `classes[i]`, matched by name.

    `scored`: what is to be scored on the file, of "bbox" and "segm"; that needs more of it.

    Raises InputError for a category outside `classes`, a missing image, an annotation of an
    unknown image or category, and a box that leaves its image by more than a pixel.
    """
    index = _category_index(path, content, classes)
    images = {image["id"]: image for image in content["images"]}
    grouped: dict[int, list[Instance]] = defaultdict(list)
    findings = Findings(str(path))
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            _refuse_unlisted(path, content, images)
        image = images[annotation["image_id"]]
        instance = _read_annotation(path, annotation, image, index, findings)
        check_scorable(path, annotation, scored)
        if instance is not None:
            grouped[annotation["image_id"]].append(instance)
    findings.report()
    return tuple(
        _read_image(image_folder, images[key], tuple(grouped[key])) for key in sorted(images)
    )


def _refuse_unlisted(path: Path, content: Mapping[str, Any], images: Mapping[int, Any]) -> None:
    """Detectron2 only warns here, and trains on images that have lost their objects."""
    lost = [a for a in content["annotations"] if a["image_id"] not in images]
    raise InputError(
        f"{path}: annotation {lost[0]['id']} is of unknown image {lost[0]['image_id']}, which "
        f"'images' does not list ({len(lost)} such annotations); list the image or remove them"
    )


def _category_index(
    path: Path, content: Mapping[str, Any], classes: Sequence[str]
) -> dict[int, int]:
    known = {name: i for i, name in enumerate(classes)}
    index = {}
    for category_id, name in read_categories(content).items():
        if name not in known:
            raise InputError(
                f"{path} has the category '{name}', which is none of the {len(known)} classes"
                f"{near_matches(name, known)}"
            )
        index[category_id] = known[name]
    return index


def _read_annotation(
    path: Path,
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    index: Mapping[int, int],
    findings: Findings,
) -> Instance | None:
    if annotation["category_id"] not in index:
        raise InputError(
            f"{path}: annotation {annotation['id']} has the unknown category "
            f"{annotation['category_id']}; 'categories' lists {', '.join(map(str, index))}"
        )
    where = f"annotation {annotation['id']}"
    x, y, width, height = check_box(path, annotation, image)
    if width * height == 0:
        findings.note(AREALESS, where)
    mask = annotation.get("segmentation")
    polygons, rle = None, None
    if isinstance(mask, dict):
        rle = _read_rle(path, annotation, image)
    elif mask:
        if not all(isinstance(polygon, list) for polygon in mask):
            raise InputError(f"{path}: {where} has a segmentation that is no list of polygons")
        polygons = [list(map(float, p)) for p in mask if len(p) % 2 == 0 and len(p) >= 6]
        findings.note(SHORT_POLYGON, where, len(mask) - len(polygons))
        if not polygons:
            findings.note(NO_POLYGON, where)
            return None
    crowd = bool(annotation.get("iscrowd", 0))
    category = index[annotation["category_id"]]
    return Instance(_corners(x, y, width, height), category, crowd, polygons=polygons, rle=rle)


def _corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    """XYWH to XYXY in float32, as Detectron2 converts: else boxes differ in their last digits."""
    left, top, wide, high = np.array([x, y, width, height], dtype=np.float32)
    return float(left), float(top), float(left + wide), float(top + high)


def _read_rle(
    path: Path, annotation: Mapping[str, Any], image: Mapping[str, Any]
) -> dict[str, Any]:
    """Compressed run lengths of a mask of the whole image."""
    mask, size = annotation["segmentation"], [image["height"], image["width"]]
    if list(mask.get("size", ())) != size or "counts" not in mask:
        raise InputError(
            f"{path}: annotation {annotation['id']} has run lengths of size {mask.get('size')}, "
            f"its image {image['file_name']} is {size} (height, width)"
        )
    if isinstance(mask["counts"], list):
        from pycocotools import mask as mask_utils

        return mask_utils.frPyObjects(mask, *size)
    return mask


def _read_image(folder: Path, image: Mapping[str, Any], instances: tuple[Instance, ...]) -> Sample:
    path = folder / image["file_name"]
    if not path.is_file():
        raise InputError(f"image {path} is missing")
    return Sample(str(path), image["id"], int(image["height"]), int(image["width"]), instances)
