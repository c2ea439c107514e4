"""A small generated set in Cityscapes' official layout, and detections near its objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.datasets.cityscapes_labels import INSTANCES, truth_of
from transfer.datasets.numbered_pixels import read_instances
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.predictions import encode_masks

HEIGHT, WIDTH = 48, 96  # px
STUFF = (0, 3, 7, 8, 11, 12, 13, 14, 17, 19, 20, 21, 22, 23)  # 0, 3, 14 are void
THINGS = (24, 25, 26, 27, 28, 29, 31, 32, 33)  # 29, a caravan, is not scored


def write_cityscapes(root: Path, split: str, images: int, seed: int = 0) -> Path:
    """Writes images of two cities with labelIds and instanceIds; returns the set's folder."""
    rng = np.random.default_rng([seed, len(split)])
    folder = root / "cityscapes"
    for index in range(images):
        city = ("aachen", "ulm")[index % 2]
        stem = f"{city}_{index:06d}_000019"
        places = [folder / kind / split / city for kind in ("leftImg8bit", "gtFine")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(places[0] / f"{stem}_leftImg8bit.png")
        labels, instances = class_maps(rng)
        Image.fromarray(labels).save(places[1] / f"{stem}_gtFine_labelIds.png")
        Image.fromarray(instances).save(places[1] / f"{stem}_gtFine_instanceIds.png")
    return folder


def class_maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Label ids uint8 and instance ids uint16 (H, W): stripes of stuff with objects on them; the
    last object is a group, which has no number."""
    labels = np.repeat(rng.choice(STUFF, HEIGHT // 8), 8).astype(np.uint8)[:, None]
    labels = np.repeat(labels, WIDTH, axis=1)
    instances = labels.astype(np.uint16)
    for number, label in enumerate(rng.choice(THINGS, 7)):
        height, width = rng.integers(3, 20, 2)
        y, x = rng.integers(0, HEIGHT - height), rng.integers(0, WIDTH - width)
        place = slice(y, y + height), slice(x, x + width)
        labels[place] = label
        instances[place] = label if number == 6 else 1000 * int(label) + number
    return labels, instances


def write_polygons(root: Path, split: str, images: int, seed: int = 0) -> Path:
    """As `write_cityscapes`, with objects as rectangles in *_polygons.json, the back first, and
    label and instance ids drawn of them; returns the set's folder."""
    rng = np.random.default_rng([seed, 7])
    folder = write_cityscapes(root, split, images, seed)
    for path in sorted((folder / "gtFine" / split).glob("*/*_gtFine_labelIds.png")):
        stem = str(path).removesuffix("_gtFine_labelIds.png")
        labels = np.full((HEIGHT, WIDTH), 23, np.uint8)
        instances, objects = labels.astype(np.uint16), [rectangle("sky", 0, 0, WIDTH, HEIGHT)]
        for number, name in enumerate(rng.choice([*NAMED, "car", "person"], 8)):
            width, height = rng.integers(6, 40), rng.integers(6, 30)
            x, y = int(rng.integers(0, WIDTH - width)), int(rng.integers(0, HEIGHT - height))
            place = slice(y, y + height), slice(x, x + width)
            label = NAMED[name]
            labels[place] = label
            single = name not in ("building", "cargroup")
            instances[place] = 1000 * label + number if single else label
            objects.append(rectangle(str(name), x, y, int(width), int(height)))
        objects.append({**rectangle("bus", 0, 0, WIDTH, HEIGHT), "deleted": 1})
        objects.append(rectangle("license plate", 0, 0, 9, 9))
        Image.fromarray(labels).save(path)
        Image.fromarray(instances).save(f"{stem}_gtFine_instanceIds.png")
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        Path(f"{stem}_gtFine_polygons.json").write_text(json.dumps(content))
    return folder


NAMED = {"car": 26, "person": 24, "bus": 28, "cargroup": 26, "building": 11, "bicycle": 33}


def rectangle(label: str, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    """Corners are the outer pixels' centres, since drawing takes the border in."""
    right, low = x + width - 1, y + height - 1
    return {"label": label, "polygon": [[x, y], [right, y], [right, low], [x, low]]}


def files_of(dataset: DetectionSet) -> dict[Any, Path]:
    """The file of instance ids of each image, by the image's id."""
    return {s.image_id: truth_of(s.file_name, INSTANCES) for s in dataset.samples}


def noisy(files: Mapping[Any, Path], seed: int) -> list[dict[str, Any]]:
    """Detections in COCO's result format: each object twice, moved, some of a wrong class; and a
    small one that hits nothing. Many scores are equal."""
    rng = np.random.default_rng(seed)
    results = []
    for image_id, path in files.items():
        ids = read_instances(str(path))
        for one in np.unique(ids[ids >= 24000]):
            for _ in range(2):
                mask = np.roll(ids == one, rng.integers(-3, 4, 2), (0, 1))
                label = one // 1000 if rng.random() < 0.8 else 24
                results.append((image_id, int(label), mask))
        blank = np.zeros((HEIGHT, WIDTH), bool)
        blank[:4, :4] = True
        results.append((image_id, 26, blank))
    scores = rng.uniform(0, 1, len(results)).round(1)
    return [
        {"image_id": image_id, "category_id": label, "score": float(score),
         "bbox": [0, 0, 1, 1], "segmentation": encode_masks(mask[None])[0]}
        for (image_id, label, mask), score in zip(results, scores)
    ]  # fmt: skip
