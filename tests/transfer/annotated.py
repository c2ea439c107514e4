"""Small COCO and VOC sets that tests change: three images with an object of both classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

SIDE = 64  # px
# x, y, width, height of the objects of each image
BOXES = (
    ([4.0, 6.0, 20.0, 24.0], [30.0, 8.5, 22.0, 33.0]),
    ([2.0, 30.0, 40.25, 28.0], [44.0, 3.0, 18.0, 21.0]),
    ([10.0, 10.0, 9.0, 12.0], [20.0, 24.0, 36.0, 37.5]),
)


def polygon(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def coco_content() -> dict[str, Any]:
    """Sound: ids from 1, boxes, areas and masks as polygons."""
    objects = [
        {"id": 0, "image_id": i + 1, "category_id": k + 1, "bbox": list(box), "iscrowd": 0,
         "area": box[2] * box[3], "segmentation": [polygon(box)]}
        for i, boxes in enumerate(BOXES)
        for k, box in enumerate(boxes)
    ]  # fmt: skip
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    return {
        "images": [
            {"id": i + 1, "file_name": f"{i}.jpg", "width": SIDE, "height": SIDE}
            for i in range(len(BOXES))
        ],
        "annotations": objects,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write_coco(folder: Path, split: str, content: dict[str, Any]) -> Path:
    """Writes the images and the file, whose path is returned, in COCO's layout."""
    for part in ("annotations", split):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(len(BOXES)):
        Image.new("RGB", (SIDE, SIDE)).save(folder / split / f"{i}.jpg")
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content))
    return path


def write_voc(folder: Path, split: str, extra: str = "") -> None:
    """The same objects in VOC's layout, 1-based and inclusive; `extra` ends each XML file."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i, boxes in enumerate(BOXES):
        objects = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for name, (x, y, w, h) in zip(("cat", "dog"), boxes)
        )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height></size>"
        text = f"<annotation>{size}{objects}{extra}</annotation>"
        (folder / "Annotations" / f"{i}.xml").write_text(text)
        Image.new("RGB", (SIDE, SIDE)).save(folder / "JPEGImages" / f"{i}.jpg")
    names = "\n".join(map(str, range(len(BOXES))))
    (folder / "ImageSets/Main" / f"{split}.txt").write_text(names)
