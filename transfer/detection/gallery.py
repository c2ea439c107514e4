"""Writes the detections in a few fixed test images as gallery.json and a sheet of pictures.

A report puts two checkpoints side by side on these images. They are drawn with one seed from the
sorted image ids, so every run on a test set shows the same ones. The sheet has their thumbnails;
the JSON file has the boxes, and the place of each image on the sheet:

    {schema, classes, images: [{id, width, height, cell: [x, y, w, h] or null,
     truth: [[x1, y1, x2, y2, class, counts], ...], found: [[x1, y1, x2, y2, score, class], ...]}]}

Boxes are XYXY in pixels of the original image, rounded to 0.1; scores to 0.0001; `class` is an
index of `classes`; `counts` is 0 for crowd regions and difficult objects, otherwise 1.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.common.checkpoint import atomic_write, atomic_write_text
from transfer.datasets.samples import DetectionSet, Sample
from transfer.detection.data.transforms import read_image
from transfer.detection.evaluation.predictions import Predictions

FILE_NAME, SHEET_NAME = "gallery.json", "gallery.jpg"
SCHEMA, SEED = 1, 0
MOST_IMAGES, COLUMNS = 24, 6
CELL_PX = 192  # pixels of the long edge of a thumbnail
MOST_BOXES, MIN_SCORE = 20, 0.05
QUALITY = 75  # quality of the JPEG file, which then has about 150 kB


def write_gallery(
    dataset: DetectionSet, predictions: Sequence[Predictions], folder: Path, *, pictures: bool
) -> dict[str, str]:
    """Writes the files into `folder`; returns {artifact: file name}.

    `predictions` are in the order of the set's samples. Without `pictures` there is no sheet.

    Raises:
        InputError: an image that cannot be read.
    """
    chosen = choose_images([sample.image_id for sample in dataset.samples])
    samples = [dataset.samples[index] for index in chosen]
    cells: Sequence[list[int] | None] = [None] * len(chosen)
    artifacts = {"gallery": FILE_NAME}
    if pictures:
        cells = _write_sheet(samples, folder / SHEET_NAME)
        artifacts["gallery_sheet"] = SHEET_NAME
    images = [
        _image(sample, predictions[index], cell)
        for sample, index, cell in zip(samples, chosen, cells)
    ]
    content = {"schema": SCHEMA, "classes": list(dataset.classes), "images": images}
    atomic_write_text(folder / FILE_NAME, json.dumps(content) + "\n")
    return artifacts


def choose_images(ids: Sequence[int | str], count: int = MOST_IMAGES) -> list[int]:
    """Returns indices of at most `count` images, drawn with one seed from the sorted ids, in that
    order.
    """
    order = sorted(range(len(ids)), key=lambda index: ids[index])
    places = random.Random(SEED).sample(range(len(ids)), min(count, len(ids)))
    return [order[place] for place in sorted(places)]


def _image(sample: Sample, found: Predictions, cell: list[int] | None) -> dict[str, Any]:
    best = np.argsort(-found.scores, kind="stable")[:MOST_BOXES]
    kept = [int(index) for index in best if found.scores[index] >= MIN_SCORE]
    return {
        "id": sample.image_id,
        "width": sample.width,
        "height": sample.height,
        "cell": cell,
        "truth": [
            [*_rounded(i.box), i.category, int(not (i.crowd or i.difficult))]
            for i in sample.instances
        ],
        "found": [
            [
                *_rounded(found.boxes[index].tolist()),
                round(float(found.scores[index]), 4),
                int(found.classes[index]),
            ]
            for index in kept
        ],
    }


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(float(value), 1) for value in box]


def _write_sheet(samples: Sequence[Sample], path: Path) -> list[list[int]]:
    """Pastes thumbnails into square cells; returns x, y, width, height of each on the sheet."""
    columns = min(COLUMNS, len(samples))
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * CELL_PX, rows * CELL_PX), "white")
    cells = []
    for number, sample in enumerate(samples):
        thumbnail = Image.fromarray(read_image(sample.file_name, "RGB"))
        scale = CELL_PX / max(thumbnail.size)
        width, height = (max(1, round(side * scale)) for side in thumbnail.size)
        thumbnail = thumbnail.resize((width, height), Image.Resampling.BICUBIC)
        place = (number % columns * CELL_PX, number // columns * CELL_PX)
        sheet.paste(thumbnail, place)
        cells.append([*place, width, height])
    atomic_write(path, lambda file: sheet.save(file, "JPEG", quality=QUALITY, optimize=True))
    return cells
