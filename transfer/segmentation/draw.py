"""Pictures of class maps: PIL images, and PNG files for a record or a user.

The background (class 0) is left as it is, every other class is tinted in its colour, pixels without
a label are grey.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from transfer.detection.data.transforms import read_image
from transfer.detection.draw import draw_objects, save_sheet
from transfer.segmentation.data import IGNORE, SemanticSet


def drawn_images(size: int, count: int) -> list[int]:
    """Indices of `count` images, evenly spread over a set (fewer where it has fewer)."""
    return np.linspace(0, size - 1, min(count, size)).round().astype(int).tolist()


def draw_map(
    pixels: np.ndarray, classes: np.ndarray, names: tuple[str, ...], long_edge: int | None = None
) -> Image.Image:
    """uint8 RGB (H, W, 3) tinted by a map (H, W), with the names of its classes in a corner."""
    pixels = np.array(pixels)
    pixels[classes == IGNORE] = 128
    found = [int(c) for c in np.unique(classes) if 0 < c < len(names)]
    masks = [classes == c for c in found]
    # One small box per class, in the upper left corner of its pixels, carries the name.
    corners = [np.argwhere(mask)[0] for mask in masks]
    boxes = np.array([[x, y, x + 1, y + 1] for y, x in corners], dtype=float).reshape(-1, 4)
    labels = [names[c] for c in found]
    edges = {} if long_edge is None else {"long_edge": long_edge}
    return draw_objects(pixels, boxes, labels, found, masks, **edges)


def draw_predictions(dataset: SemanticSet, maps: Mapping[int, np.ndarray], path: Path) -> None:
    """Writes a sheet: each image as labelled beside the image as predicted."""
    cells = []
    for index in sorted(maps):
        sample = dataset.samples[index]
        pixels = read_image(sample.file_name, "RGB")
        cells.append(draw_map(pixels, sample.mask(), dataset.classes))
        cells.append(draw_map(pixels, maps[index], dataset.classes))
    save_sheet(cells, path)
