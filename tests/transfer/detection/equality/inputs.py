"""Images, annotations, schedules and detections that both engines get, made from seeds.

They are small data sets in VOC's and COCO's layout, written into a folder, with all difficult cases
(difficult, crowd, 1 px, one object, none, extreme aspect ratio, rotated by EXIF), and random
detections with their ground truth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.predictions import Predictions

CLASSES = ("ant", "bee", "cat")
SHORT_EDGE, MAX_SIZE = 40, 120
# (height, width, short edge, longest side)
SHAPES = [
    (height, width, edge, limit)
    for height, width in ((375, 500), (100, 900), (900, 100), (333, 333), (1, 7), (427, 641))
    for edge, limit in ((800, 1333), (480, 1333), (608, 700), (33, 1333))
]
RESIZES = [(31, 47, 20, 1333), (23, 19, 41, 1333), (12, 90, 30, 100), (16, 16, 16, 1333)]
# Large-scale jitter: least and largest factor, side of the square, and the seeds that are drawn.
JITTER_SCALES, JITTER_SIZE, JITTER_SEEDS = (0.3, 2.5), 40, range(6)
# INPUT.CROP's type and size; sizes of training, of which each draws one between both
CROPS = [("relative_range", (0.4, 0.6)), ("relative", (0.5, 0.7)), ("absolute", (24, 400))]
CROPS += [("absolute_range", (16, 30))]
CROP_SIZES = (30, 50)
# The keys of SOLVER that a schedule is made of: MoCo's VOC in full, and two short ones.
SCHEDULES: dict[str, dict[str, Any]] = {
    "voc_24k": {"max_iter": 24000, "steps": (18000, 22000), "warmup_iters": 100},
    "short": {"max_iter": 90, "steps": (60, 80, 95), "warmup_iters": 7, "gamma": 0.3},
    "constant_warmup": {"max_iter": 40, "steps": (30,), "warmup_iters": 9},
    "cosine": {"max_iter": 120, "steps": (), "warmup_iters": 10},
}
SCHEDULES["constant_warmup"] |= {"warmup_method": "constant", "warmup_factor": 0.25}
SCHEDULES["cosine"] |= {"lr_scheduler_name": "WarmupCosineLR"}
SCHEDULES["equal_steps"] = {"max_iter": 100, "warmup_iters": 4, "num_decays": 6}
SCHEDULES["equal_steps"] |= {"lr_scheduler_name": "WarmupStepWithFixedGammaLR", "gamma": 0.5}
SCHEDULES["rescaled"] = {"max_iter": 90, "steps": (60, 80), "warmup_iters": 30}
SCHEDULES["rescaled_cosine"] = {**SCHEDULES["cosine"], "warmup_iters": 30}
for _name in ("rescaled", "rescaled_cosine"):
    SCHEDULES[_name]["rescale_interval"] = True
# What clips gradients: type, value, norm, and the optimiser
CLIPPINGS = [("value", 0.3, 2.0), ("norm", 0.7, 2.0), ("norm", 0.7, 1.0)]
ORDERS = [(11, 5, 4, 0, 1), (11, 5, 4, 1, 2), (40, 0, 3, 0, 1)]  # size, seed, batch, rank, world
# threshold, root, seed, batch, rank, world
REPEATS = [(0.5, True, 5, 2, 0, 1), (0.5, False, 6, 3, 0, 2), (0.5, False, 6, 3, 1, 2)]
REPEATS += [(0.05, True, 5, 2, 0, 1)]
# name: ((height, width), [(class, xmin, ymin, xmax, ymax, difficult)]) in VOC's convention
VOC_IMAGES = {
    "one_box": ((48, 64), [("cat", 5, 7, 40, 30, 0)]),
    "difficult": ((64, 48), [("ant", 1, 1, 48, 64, 1), ("bee", 10, 12, 20, 33, 0)]),
    "tiny": ((50, 50), [("bee", 17, 17, 17, 17, 0), ("cat", 50, 50, 50, 50, 0)]),
    "nothing": ((30, 40), []),
    "wide": ((12, 150), [("ant", 2, 3, 149, 4, 0)]),
}


def rare_classes(images: int = 23) -> list[list[int]]:
    """The classes of each image's objects; later classes are rarer, and some images have none."""
    rng = np.random.default_rng(3)
    return [(rng.geometric(0.5, rng.integers(0, 4)) - 1).tolist() for _ in range(images)]


def pixels(height: int, width: int, seed: int) -> np.ndarray:
    """Noise, uint8 (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def landscape(size: int) -> list[bool]:
    """Which of `size` images are wider than high."""
    return [index % 3 > 0 for index in range(size)]


def write_voc(folder: Path) -> None:
    """VOC_IMAGES below `folder` as the split "train"; the images are lossless."""
    stems = []
    for seed, (stem, ((height, width), objects)) in enumerate(VOC_IMAGES.items()):
        _write_image(folder / "JPEGImages" / f"{stem}.jpg", height, width, seed)
        _write_xml(folder / "Annotations" / f"{stem}.xml", height, width, objects)
        stems.append(stem)
    _write(folder / "ImageSets" / "Main" / "train.txt", "\n".join(stems) + "\n")


def write_coco(folder: Path) -> None:
    """Images below `folder`/train and `folder`/instances_train.json."""
    images, annotations = [], []

    def add(key: int, category: int, box: list[float], segmentation: Any, crowd: int = 0) -> None:
        entry = {"id": len(annotations) + 1, "image_id": key, "category_id": category}
        entry |= {"bbox": box, "segmentation": segmentation, "iscrowd": crowd, "area": 1.0}
        annotations.append(entry)

    for key, (height, width) in {9: (48, 64), 3: (64, 40), 5: (20, 110), 7: (33, 33)}.items():
        # Image 3 is stored lying and turned upright when it is read.
        _write_image(folder / "train" / f"{key}.png", height, width, key, turned=key == 3)
        entry = {"id": key, "file_name": f"{key}.png", "height": height, "width": width}
        images.append(entry)
    triangle = [[2.5, 3.0, 30.25, 4.0, 16.0, 40.5]]
    crowd = {"size": [48, 64], "counts": [0, 1000, 48 * 64 - 1000]}
    add(9, 30, [2.5, 3.0, 27.75, 37.5], triangle)
    add(9, 10, [0.0, 0.0, 20.8, 48.0], crowd, crowd=1)
    add(9, 10, [40.0, 20.0, 1.0, 1.0], [[40.0, 20.0, 41.0, 20.0, 41.0, 21.0]])
    # No polygon is of integers alone: Detectron2 would cut each coordinate to an integer.
    two = [[5.0, 5, 35, 5, 35, 55], [5.0, 20, 20, 30, 5, 55, 6, 40]]
    add(3, 20, [5.0, 5.0, 30.0, 50.0], two)
    add(3, 20, [5.0, 5.0, 4e-6, 50.0], [[5.0, 5, 6, 5, 5, 55]])  # too narrow
    add(5, 30, [1.0, 2.0, 108.5, 2.0], [[1, 2, 109.5, 2, 109.5, 4, 1, 4]])
    add(7, 10, [0.0, 0.0, 20.8, 33.0], {"size": [33, 33], "counts": [0, 500, 589]}, crowd=1)
    categories = [{"id": 30, "name": "cat"}, {"id": 10, "name": "ant"}, {"id": 20, "name": "bee"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write(folder / "instances_train.json", json.dumps(content))


KEYPOINT_NAMES = ("nose", "left_eye", "right_eye")
MIRRORED = [("left_eye", "right_eye")]


def write_keypoints(folder: Path) -> None:
    """Images below `folder`/train and `folder`/person_keypoints_train.json: whole pixels as COCO
    has them, keypoints in the last corner, outside, not labelled, and of a crowd."""
    images, annotations = [], []
    for key, (height, width) in {4: (48, 64), 2: (30, 90), 6: (33, 33)}.items():
        _write_image(folder / "train" / f"{key}.png", height, width, key)
        entry = {"id": key, "file_name": f"{key}.png", "height": height, "width": width}
        images.append(entry)

    def add(key: int, box: list[float], keypoints: list[int], crowd: int = 0) -> None:
        entry = {"id": len(annotations) + 1, "image_id": key, "category_id": 1, "area": 1.0}
        entry |= {"bbox": box, "iscrowd": crowd, "keypoints": keypoints}
        annotations.append({**entry, "num_keypoints": sum(v > 0 for v in keypoints[2::3])})

    add(4, [2.5, 3.0, 27.75, 37.5], [10, 11, 2, 20, 30, 1, 0, 0, 0])
    add(4, [0.0, 0.0, 64.0, 48.0], [63, 47, 2, 0, 0, 2, 70, 20, 1])
    add(4, [1.0, 1.0, 9.0, 9.5], [0, 0, 0, 0, 0, 0, 0, 0, 0])
    add(2, [5.0, 5.0, 80.5, 20.0], [5, 24, 2, 85, 6, 2, 40, 15, 2])
    add(2, [0.0, 0.0, 20.8, 30.0], [1, 2, 2, 3, 4, 2, 5, 6, 2], crowd=1)
    add(6, [1.0, 2.0, 30.5, 20.0], [0, 0, 0, 9, 9, 1, 0, 0, 0])
    categories = [{"id": 1, "name": "person", "keypoints": list(KEYPOINT_NAMES)}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    _write(folder / "person_keypoints_train.json", json.dumps(content))


def random_detections(seed: int, ties: bool) -> tuple[DetectionSet, list[Predictions]]:
    """Ground truth (some difficult, a class without any in seed 2) and detections near it.

    Without ties all rounded scores of a class differ: the evaluator's sort is not stable, and what
    it makes of equal scores depends on the processor.
    """
    rng = np.random.default_rng(seed)
    samples, predictions = [], []
    ranks = iter(rng.permutation(999))
    for number in range(16):
        low = rng.integers(0, 60, (rng.integers(0, 5), 2)).astype(float)
        boxes = np.concatenate([low, low + rng.integers(4, 40, low.shape)], axis=1)
        instances = tuple(
            Instance(tuple(box), int(rng.integers(3 - seed // 2)), difficult=rng.random() < 0.25)
            for box in boxes.tolist()
        )
        samples.append(Sample(f"{number}.jpg", f"{number:03d}", 120, 120, instances))
        near = np.repeat(boxes, 4, axis=0)
        near += (rng.random(near.shape) - 0.5) * rng.choice([1.0, 4.0, 12.0], (len(near), 1))
        found = np.concatenate([near, rng.random((4, 4)) * 30 + [0, 0, 60, 60]])
        categories = np.array([i.category for i in instances], dtype=int)
        classes = np.concatenate([np.repeat(categories, 4), rng.integers(0, 3, 4)])
        scores = [(next(ranks) + 1.3) / 1001 for _ in found]
        if ties:
            scores = np.round(scores, 1)
        predictions.append(
            Predictions(
                f"{number:03d}", found.astype(np.float32), np.float32(scores), classes.astype(int)
            )
        )
    return DetectionSet("voc:x:test", "voc", tuple(samples), CLASSES, (1, 2, 3)), predictions


def write_truth(folder: Path, dataset: DetectionSet) -> None:
    """The annotations of a data set without images, as the split "test"."""
    for sample in dataset.samples:
        objects = [
            (CLASSES[i.category], i.box[0] + 1, i.box[1] + 1, *i.box[2:], i.difficult)
            for i in sample.instances
        ]
        path = folder / "Annotations" / f"{sample.image_id}.xml"
        _write_xml(path, sample.height, sample.width, objects)
    stems = [sample.image_id for sample in dataset.samples]
    _write(folder / "ImageSets" / "Main" / "test.txt", "\n".join(stems) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _write_image(path: Path, height: int, width: int, seed: int, turned: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        height, width = width, height
        exif[0x0112] = 6
    Image.fromarray(pixels(height, width, seed)).save(path, format="PNG", exif=exif)


def _write_xml(path: Path, height: int, width: int, objects: list[tuple]) -> None:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    parts = []
    for name, *corners, difficult in objects:
        names = ("xmin", "ymin", "xmax", "ymax")
        bounds = "".join(f"<{key}>{int(value)}</{key}>" for key, value in zip(names, corners))
        parts.append(
            f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
            f"<difficult>{int(difficult)}</difficult><bndbox>{bounds}</bndbox></object>"
        )
    _write(path, f"<annotation>{size}{''.join(parts)}</annotation>")
