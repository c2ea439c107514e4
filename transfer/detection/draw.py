"""Pictures of boxes, masks and keypoints: detections on test images, annotations on training input.

The pictures are PIL images, and PNG files for a record or a user to look at. Boxes are XYXY in
pixels of the image drawn on.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pretrain.common.checkpoint import atomic_write
from transfer.datasets.samples import DetectionSet
from transfer.detection.data.transforms import read_image
from transfer.detection.evaluation.predictions import Predictions

CELL_PX = 320  # pixels of the long edge of an image in the sheet
MIN_SCORE = 0.3  # the scores of a detector that was trained for minutes are seldom higher
MOST_BOXES = 20
DOT_PX = 3  # radius of a keypoint's dot


def draw_objects(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    categories: Sequence[int],
    masks: Sequence[np.ndarray] = (),
    long_edge: int = CELL_PX,
    keypoints: Sequence[np.ndarray] = (),
) -> Image.Image:
    """Draws boxes (n, 4), labels, bool masks (n of (H, W)) and dots at keypoints (n of (k, 2)) on
    uint8 RGB (H, W, 3).

    The image is scaled so that its long edge has `long_edge` pixels; one colour per category.
    """
    pixels = np.array(pixels)
    for mask, category in zip(masks, categories):
        tint = np.array(_colour(category), dtype=np.float32)
        pixels[mask] = (0.5 * pixels[mask] + 0.5 * tint).astype(np.uint8)
    scale = long_edge / max(pixels.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in (pixels.shape[1], pixels.shape[0]))
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    for box, label, category in zip(np.asarray(boxes).reshape(-1, 4), labels, categories):
        left, top, right, bottom = (float(value) * scale for value in box)
        draw.rectangle((left, top, max(left, right), max(top, bottom)), None, _colour(category), 2)
        place = (left + 2, max(0.0, top - 14))
        draw.rectangle(draw.textbbox(place, label, font=font), fill=_colour(category))
        draw.text(place, label, fill="black", font=font)
    for points, category in zip(keypoints, categories):
        for x, y in (np.asarray(points) * scale).tolist():
            dot = (x - DOT_PX, y - DOT_PX, x + DOT_PX, y + DOT_PX)
            draw.ellipse(dot, _colour(category), "black")
    return image


def draw_detections(
    dataset: DetectionSet, predictions: Sequence[Predictions], count: int, path: Path
) -> None:
    """Writes a sheet of `count` test images, evenly spread over the set, with the detections."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    cells = []
    for index in chosen:
        pixels = read_image(dataset.samples[index].file_name, "RGB")
        cells.append(draw_found(pixels, predictions[index], dataset.classes))
    save_sheet(cells, path)


def draw_found(
    pixels: np.ndarray,
    found: Predictions,
    classes: Sequence[str],
    min_score: float = MIN_SCORE,
    long_edge: int = CELL_PX,
) -> Image.Image:
    """Draws the first MOST_BOXES detections of at least `min_score` on uint8 RGB (H, W, 3)."""
    kept = np.flatnonzero(found.scores >= min_score)[:MOST_BOXES]
    categories = found.classes[kept].tolist()
    labels = [
        f"{classes[category]} {score:.2f}"
        for category, score in zip(categories, found.scores[kept].tolist())
    ]
    masks = [] if found.rles is None else [_decode(found.rles[i]) for i in kept]
    points = [] if found.keypoints is None else list(found.keypoints[kept, :, :2])
    return draw_objects(pixels, found.boxes[kept], labels, categories, masks, long_edge, points)


def draw_training_input(
    item: Mapping[str, Any], classes: Sequence[str], channel_order: str
) -> Image.Image:
    """Draws a training image as the detector gets it, with boxes, masks and labelled keypoints."""
    pixels = item["image"].permute(1, 2, 0).numpy()
    if channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    categories = item["classes"].tolist()
    labels = [classes[category] for category in categories]
    long_edge = max(pixels.shape[:2])
    boxes, found = item["boxes"].numpy(), item.get("keypoints")
    points = [] if found is None else [one[one[:, 2] > 0, :2].numpy() for one in found]
    return draw_objects(pixels, boxes, labels, categories, _masks(item), long_edge, points)


def save_sheet(cells: Sequence[Image.Image], path: Path, columns: int = 4) -> None:
    """Pastes the images into rows of cells and writes a PNG."""
    columns = min(columns, len(cells))
    width = max(cell.width for cell in cells) + 4
    height = max(cell.height for cell in cells) + 4
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        sheet.paste(cell, (column * width + 2, row * height + 2))
    save_png(sheet, path)


def save_png(image: Image.Image, path: Path) -> None:
    """Writes a PNG atomically."""
    atomic_write(path, lambda file: image.save(file, "PNG"))


def _masks(item: Mapping[str, Any]) -> list[np.ndarray]:
    from pycocotools import mask as mask_utils

    if item.get("bitmasks") is not None:
        return list(item["bitmasks"].numpy())
    height, width = item["image"].shape[1:]
    masks = []
    for polygons in item["polygons"] or ():
        rles = mask_utils.frPyObjects([p.tolist() for p in polygons], height, width)
        masks.append(mask_utils.decode(mask_utils.merge(rles)).astype(bool))
    return masks


def _decode(rle: dict[str, Any]) -> np.ndarray:
    from pycocotools import mask as mask_utils

    return mask_utils.decode(rle).astype(bool)


def _colour(category: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep neighbouring categories apart on the colour wheel.
    red, green, blue = colorsys.hsv_to_rgb((0.61803399 * category) % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
