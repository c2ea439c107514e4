"""What a COCO file must have: one clear line for an entry that lacks something or contradicts.

In: parsed entries of a COCO JSON file. Out: nothing, or an InputError that names file and entry.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError

# The official annotations leave their images by fractions of a pixel.
TOLERANCE_PX = 1.0
KEYS = {
    "images": ("id", "file_name", "height", "width"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
}
# The popular splits of COCO 2014 by that name repeat some ids; Detectron2 lets them pass, too.
MINIVAL = "minival"
# COCO's evaluator reads these of every object; training does not.
SCORED_KEYS = ("area", "iscrowd")


def check_entries(path: Path, content: Mapping[str, Any]) -> None:
    """Each entry has its keys, and no two of a list have the same id."""
    for part, keys in KEYS.items():
        seen = set()
        for entry in content[part]:
            for key in keys:
                if key not in entry:
                    name = f"{part}[id {entry['id']}]" if "id" in entry else f"an entry of {part}"
                    raise InputError(f"{path}: {name} has no '{key}'")
            if entry["id"] in seen and not (part == "annotations" and MINIVAL in path.name):
                raise InputError(
                    f"{path}: the id {entry['id']} occurs twice in '{part}'; ids must be unique"
                )
            seen.add(entry["id"])
    names = Counter(category["name"] for category in content["categories"])
    for name, count in names.items():
        if count > 1:
            raise InputError(f"{path}: 'categories' lists the name '{name}' twice")


def check_box(
    path: Path, annotation: Mapping[str, Any], image: Mapping[str, Any]
) -> tuple[float, float, float, float]:
    """x, y, width, height; a box without area is legal."""
    where, values = f"{path}: annotation {annotation['id']}", annotation["bbox"]
    try:
        x, y, width, height = map(float, values)
    except (TypeError, ValueError):
        raise InputError(f"{where} has the bbox {values}, not x, y, width, height") from None
    right, bottom = image["width"] + TOLERANCE_PX, image["height"] + TOLERANCE_PX
    inside = min(x, y) >= -TOLERANCE_PX and x + width <= right and y + height <= bottom
    if not inside or min(width, height) < 0 or not math.isfinite(x + y + width + height):
        raise InputError(
            f"{where} has the box {values} (x, y, w, h), not inside image {image['file_name']} "
            f"of {image['width']} x {image['height']}"
        )
    if annotation.get("ignore", 0):
        raise InputError(f"{where} is marked 'ignore', which is not supported; use 'iscrowd'")
    return x, y, width, height


def check_scorable(path: Path, annotation: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """What COCO's evaluator reads of an object, and what would stop it after the training.

    `kinds`: what will be scored, of "bbox" and "segm".
    """
    where = f"{path}: annotation {annotation['id']}"
    for key in SCORED_KEYS if kinds else ():
        if key not in annotation:
            raise InputError(f"{where} has no '{key}', which COCO's metrics need of a test set")
    if "segm" not in kinds:
        return
    mask = annotation.get("segmentation")
    # pycocotools takes a first polygon of four numbers for a box, and fails.
    if not mask or isinstance(mask, list) and len(mask[0]) < 6:
        raise InputError(
            f"{where} has no mask, or a polygon with fewer than 3 points, where COCO's mask "
            "metrics need one; mend it, remove the annotation, or set MODEL.MASK_ON False"
        )
