"""Reads a data set in COCO's layout.

In: a JSON file with images, annotations and categories, and the folder of its images. Out: Samples
with the semantics of Detectron2 (data/datasets/coco.py): images sorted by id, categories sorted by
id, polygons with fewer than six numbers dropped and objects left with none skipped, crowd regions
kept with their flag. Masks may also be run lengths (RLE). Boxes become XYXY.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.lookup import near_matches
from transfer.datasets.samples import Instance, Sample

logger = logging.getLogger(__name__)

# The official annotations leave their images by fractions of a pixel.
TOLERANCE_PX = 1.0


def read_json(path: Path, image_folder: Path) -> dict[str, Any]:
    """The parsed file. Raises InputError when it, or the image folder, is missing or malformed."""
    for needed in (path, image_folder):
        if not needed.exists():
            raise InputError(
                f"{needed} is missing; expected {path} and its images in {image_folder}/"
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
    return content


def read_categories(content: Mapping[str, Any]) -> dict[int, str]:
    """Category id -> name, by ascending id."""
    return {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}


def read_coco(
    path: Path, image_folder: Path, content: Mapping[str, Any], classes: Sequence[str]
) -> tuple[Sample, ...]:
    """All images of the file, by ascending id; category i is `classes[i]`, matched by name.

    Raises InputError for a category outside `classes`, a missing image, an annotation of an
    unknown image or category, and a box that leaves its image by more than a pixel.
    """
    index = _category_index(path, content, classes)
    images = {image["id"]: image for image in content["images"]}
    grouped: dict[int, list[Instance]] = defaultdict(list)
    skipped = 0
    for annotation in content["annotations"]:
        image = images.get(annotation["image_id"])
        if image is None:
            raise InputError(f"{path}: annotation of unknown image {annotation['image_id']}")
        instance = _read_annotation(path, annotation, image, index)
        if instance is None:
            skipped += 1
        else:
            grouped[annotation["image_id"]].append(instance)
    if skipped:
        logger.warning("%s: %d objects without a valid polygon were skipped", path, skipped)
    return tuple(
        _read_image(image_folder, images[key], tuple(grouped[key])) for key in sorted(images)
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
    path: Path, annotation: Mapping[str, Any], image: Mapping[str, Any], index: Mapping[int, int]
) -> Instance | None:
    if annotation["category_id"] not in index:
        raise InputError(
            f"{path}: annotation {annotation.get('id')} has the unknown category "
            f"{annotation['category_id']}"
        )
    x, y, width, height = (float(value) for value in annotation["bbox"])
    box = (x, y, x + width, y + height)
    if (
        min(box) < -TOLERANCE_PX
        or box[2] > image["width"] + TOLERANCE_PX
        or box[3] > image["height"] + TOLERANCE_PX
        or min(width, height) < 0
    ):
        raise InputError(
            f"{path}: annotation {annotation.get('id')} has the box {annotation['bbox']} (x, y, w, "
            f"h), not inside image {image['file_name']} of {image['width']} x {image['height']}"
        )
    polygons, rle, valid = _read_mask(annotation.get("segmentation"), image)
    if not valid:
        return None
    category = index[annotation["category_id"]]
    crowd = bool(annotation.get("iscrowd", 0))
    return Instance(box, category, crowd=crowd, polygons=polygons, rle=rle)


def _read_mask(
    mask: Any, image: Mapping[str, Any]
) -> tuple[list[list[float]] | None, dict[str, Any] | None, bool]:
    """Polygons, run lengths (compressed), and whether the annotation may stay."""
    if not mask:
        return None, None, True
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            from pycocotools import mask as mask_utils

            mask = mask_utils.frPyObjects(mask, image["height"], image["width"])
        return None, mask, True
    polygons = [list(map(float, p)) for p in mask if len(p) % 2 == 0 and len(p) >= 6]
    return polygons, None, bool(polygons)


def _read_image(folder: Path, image: Mapping[str, Any], instances: tuple[Instance, ...]) -> Sample:
    path = folder / image["file_name"]
    if not path.is_file():
        raise InputError(f"image {path} is missing")
    return Sample(str(path), image["id"], int(image["height"]), int(image["width"]), instances)
