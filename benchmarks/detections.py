"""Random test sets with random detections near their objects, in COCO's and VOC's layout.

The annotation files are written into a folder; the functions return a DetectionSet and one
Predictions for each image. No image files are written, because scoring does not read any. Equal
sizes give equal numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.predictions import Predictions, encode_masks

WIDTH, HEIGHT = 320, 240  # px
OBJECT = (
    "<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}"
    "</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>"
    "</object>"
)


def random_coco(
    folder: Path, images: int, per_image: int, classes: int
) -> tuple[DetectionSet, list[Predictions]]:
    """Makes rectangles with polygons, of which one in ten is a crowd; detections have masks."""
    samples, predictions = [], []
    annotations: list[dict[str, object]] = []
    for image_id, instances, found in _images(images, per_image, classes):
        predictions.append(_with_masks(found))
        samples.append(Sample(f"{image_id}.jpg", image_id, HEIGHT, WIDTH, instances))
        for instance in instances:
            x1, y1, x2, y2 = instance.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": instance.category + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": int(instance.difficult),
                    "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
                }
            )
    size = {"width": WIDTH, "height": HEIGHT}
    content = {
        "info": {},
        "images": [{"id": s.image_id, "file_name": s.file_name, **size} for s in samples],
        "categories": [{"id": i + 1, "name": f"class{i}"} for i in range(classes)],
        "annotations": annotations,
    }
    folder.mkdir(parents=True)
    path = folder / "instances_test.json"
    path.write_text(json.dumps(content))
    return _set("coco", samples, classes, path), predictions


def random_voc(
    folder: Path, images: int, per_image: int, classes: int
) -> tuple[DetectionSet, list[Predictions]]:
    """Makes the same objects and detections, of which one object in ten is difficult."""
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    samples, predictions = [], []
    for number, instances, found in _images(images, per_image, classes):
        stem = f"{number:06d}"
        body = "".join(
            OBJECT.format(
                *(int(v) + (i < 2) for i, v in enumerate(instance.box)),
                name=f"class{instance.category}",
                difficult=int(instance.difficult),
            )
            for instance in instances
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        path = folder / "Annotations" / f"{stem}.xml"
        path.write_text(f"<annotation>{size}{body}</annotation>")
        (folder / "JPEGImages" / f"{stem}.jpg").touch()
        samples.append(Sample(f"{stem}.jpg", stem, HEIGHT, WIDTH, instances))
        predictions.append(Predictions(stem, found.boxes, found.scores, found.classes))
    listing = "".join(f"{sample.image_id}\n" for sample in samples)
    (folder / "ImageSets/Main/test.txt").write_text(listing)
    return _set("voc", samples, classes, None), predictions


def _images(
    images: int, per_image: int, classes: int
) -> Iterator[tuple[int, tuple[Instance, ...], Predictions]]:
    """Yields (number, up to 14 objects, detections); half of the detections are near an object of
    their class."""
    rng = np.random.default_rng(0)
    for number in range(1, images + 1):
        count = int(rng.integers(1, 15))
        low = rng.integers(0, [WIDTH - 100, HEIGHT - 100], (count, 2))
        boxes = np.concatenate([low, low + rng.integers(8, 100, (count, 2))], 1).astype(float)
        labels, odd = rng.integers(0, classes, count), rng.random(count) < 0.1
        instances = tuple(
            Instance(tuple(box), int(label), difficult=bool(flag))
            for box, label, flag in zip(boxes.tolist(), labels, odd)
        )
        chosen = rng.integers(0, count, per_image)
        near = rng.random(per_image) < 0.5
        noise = np.where(near[:, None], 3.0, 30.0) * rng.normal(size=(per_image, 4))
        found = (boxes[chosen] + noise).clip(0, [WIDTH, HEIGHT] * 2)
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = np.where(near, labels[chosen], rng.integers(0, classes, per_image))
        scores = rng.random(per_image).astype(np.float32)
        order = np.argsort(-scores)
        yield number, instances, Predictions(
            number, found.astype(np.float32)[order], scores[order], guesses[order]
        )


def _with_masks(found: Predictions) -> Predictions:
    masks = np.zeros((len(found.boxes), HEIGHT, WIDTH), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, found.boxes.round().astype(int)):
        mask[y1:y2, x1:x2] = True
    return Predictions(
        found.image_id, found.boxes, found.scores, found.classes, encode_masks(masks)
    )


def _set(layout: str, samples: list[Sample], classes: int, path: Path | None) -> DetectionSet:
    names, ids = tuple(f"class{i}" for i in range(classes)), tuple(range(1, classes + 1))
    return DetectionSet(f"{layout}:random:test", layout, tuple(samples), names, ids, path)
