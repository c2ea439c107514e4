"""Pictures of class maps: PIL images, and PNG files for a record or a user.

The background (class 0) is not changed, every other class is tinted in its colour, and pixels
without a label are grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from transfer.detection.data.transforms import read_image
from transfer.detection.draw import CELL_PX, draw_objects, save_sheet
from transfer.segmentation.data import IGNORE, SemanticSet


def drawn_images(size: int, count: int) -> list[int]:
    """Returns indices of `count` images, evenly spaced over a set (fewer if it has fewer)."""
    return np.linspace(0, size - 1, min(count, size)).round().astype(int).tolist()


def draw_map(
    pixels: np.ndarray, classes: np.ndarray, names: tuple[str, ...], long_edge: int | None = None
) -> Image.Image:
    """Returns an image, uint8 RGB (H, W, 3), tinted by a map (H, W), with the classes' names."""
    pixels = np.array(pixels)
    pixels[classes == IGNORE] = 128
    found = [int(c) for c in np.unique(classes) if 0 < c < len(names)]
    masks = [classes == c for c in found]
    # A small box in the upper left corner of each class's pixels has the class's name.
    corners = [np.argwhere(mask)[0] for mask in masks]
    boxes = np.array([[x, y, x + 1, y + 1] for y, x in corners], dtype=float).reshape(-1, 4)
    labels = [names[c] for c in found]
    edge = CELL_PX if long_edge is None else long_edge
    return draw_objects(pixels, boxes, labels, found, masks, edge)


def draw_predictions(dataset: SemanticSet, maps: Mapping[int, np.ndarray], path: Path) -> None:
    """Writes a sheet that shows each image with its labels next to its predictions."""
    cells = []
    for index in sorted(maps):
        sample = dataset.samples[index]
        pixels = read_image(sample.file_name, "RGB")
        cells.append(draw_map(pixels, sample.mask(), dataset.classes))
        cells.append(draw_map(pixels, maps[index], dataset.classes))
    save_sheet(cells, path)
