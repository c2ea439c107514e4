"""A small generated set in LVIS's official layout, and detections near its objects."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.lvis_library import import_lvis
from transfer.detection.evaluation.predictions import Predictions, encode_masks

SIDE = 200  # px; triangles in boxes of 12 to 160 px are small, medium and large
FREQUENCIES = "rrccff"  # of the categories 1 to 6; the last one has no object


def lvis_content(split: str, images: int, seed: int = 0) -> dict[str, Any]:
    """Categories 1 to 6; each image shows some of 1 to 5, lists some of the others as absent, and
    some of its own as not annotated exhaustively. Records as in the official files, with no
    `file_name` and no `iscrowd`."""
    rng = np.random.default_rng(seed)
    entries, objects = [], []
    for number in range(1, images + 1):
        shown = rng.choice(5, size=rng.integers(1, 4), replace=False) + 1
        others = [c for c in range(1, len(FREQUENCIES) + 1) if c not in shown]
        # Of the validation set, some images are of COCO's train2017.
        folder = "train2017" if number % 3 == 0 else f"{split}2017"
        entries.append({
            "id": number * 10, "height": SIDE, "width": SIDE, "license": 1, "flickr_url": "",
            "coco_url": f"http://images.cocodataset.org/{folder}/{split}{number:08d}.jpg",
            "neg_category_ids": sorted(int(c) for c in rng.choice(others, 2, replace=False)),
            "not_exhaustive_category_ids": [int(shown[0])] if number % 2 else [],
        })  # fmt: skip
        for category in np.repeat(shown, rng.integers(1, 3, len(shown))):
            width, height = rng.choice([12, 20, 50, 80, 140, 160], 2)
            x, y = rng.integers(0, SIDE - width), rng.integers(0, SIDE - height)
            x, y, w, h = (float(v) for v in (x, y, width, height))
            objects.append({
                "id": len(objects) + 1, "image_id": number * 10, "category_id": int(category),
                "bbox": [x, y, w, h], "area": w * h / 2,
                "segmentation": [[x, y, x + w, y, x + w, y + h]],
            })  # fmt: skip
    categories = [
        {"id": i, "name": f"class_{i}", "synonyms": [f"class_{i}"], "synset": f"class_{i}.n.01",
         "def": "", "frequency": frequency, "image_count": 1, "instance_count": 1}
        for i, frequency in enumerate(FREQUENCIES, start=1)
    ]  # fmt: skip
    return {
        "info": {},
        "licenses": [],
        "images": entries,
        "annotations": objects,
        "categories": categories,
    }


def write_lvis(root: Path, split: str, content: Mapping[str, Any]) -> str:
    """Writes `root`/lvis/lvis_v1_{split}.json and the images below `root`/coco; returns the name
    lvis:FILE.json:IMAGES."""
    rng = np.random.default_rng(1)
    for entry in content["images"]:
        path = root / "coco" / "/".join(entry["coco_url"].split("/")[-2:])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
    path = root / "lvis" / f"lvis_v1_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return f"lvis:{path}:{root / 'coco'}"


def triangle(box: np.ndarray, side: int) -> np.ndarray:
    """The upper right half of a box, as the files' polygons are."""
    ys, xs = np.mgrid[:side, :side] + 0.5
    x1, y1, x2, y2 = box
    inside = (xs > x1) & (xs < x2) & (ys > y1) & (ys < y2)
    return inside & ((xs - x1) / (x2 - x1) > (ys - y1) / (y2 - y1))


def noisy(
    dataset: DetectionSet, seed: int, shake: float = 4.0, *, decimals: int = 1
) -> list[Predictions]:
    """The truth, shaken, beside detections of random classes; with one decimal many scores are
    equal."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in dataset.samples:
        boxes = np.array([i.box for i in sample.instances])
        boxes = np.concatenate([boxes, boxes + rng.normal(0, shake, boxes.shape), boxes])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        classes = np.array([i.category for i in sample.instances] * 3)
        classes[2 * len(sample.instances) :] = rng.integers(0, 6, len(sample.instances))
        scores = rng.uniform(0.1, 1.0, len(boxes)).round(decimals).astype(np.float32)
        masks = np.stack([triangle(box, sample.height) for box in boxes])
        rles = encode_masks(masks)
        found.append(Predictions(sample.image_id, boxes.astype(np.float32), scores, classes, rles))
    return found


def lend_lvis() -> None:
    """Lets Detectron2 import the package `lvis` as it can be used here; see `import_lvis`."""
    library = import_lvis()
    setattr(sys.modules["lvis"], "LVIS", getattr(library, "LVIS"))
