"""Geometry of the input pipeline: reading, resizing and flipping an image with its boxes and masks.

It converts an image and its annotation from original to resized pixels, with the numbers of
Detectron2 (data/detection_utils.py, data/transforms): PIL's bilinear filter on uint8, antialiased
when it shrinks; coordinates continuous; resize first, then flip.

Legend: H, W pixels; n objects; boxes XYXY.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.data.decode import decode_image

Random = np.random.Generator | np.random.RandomState


def read_image(path: str, channel_order: str) -> np.ndarray:
    """Returns the image as uint8 (H, W, 3) in "RGB" or "BGR" order, turned as its EXIF data say.

    Pixels are those of PIL, as in Detectron2, except for images of 16 bits: see `decode_image`.
    Raises InputError, with the path, for a file that is missing, truncated, foreign or refused.
    """
    try:
        pixels = np.asarray(decode_image(path, fast=False, turn=True))
    except OSError as error:
        raise InputError(f"image {error}") from None
    return ordered(pixels, channel_order)


def ordered(pixels: np.ndarray, channel_order: str) -> np.ndarray:
    """Returns RGB pixels (H, W, 3) in "RGB" or "BGR" order."""
    return pixels[:, :, ::-1] if channel_order == "BGR" else pixels


def resized_shape(height: int, width: int, short_edge: int, max_size: int) -> tuple[int, int]:
    """Returns (height, width) after scaling the short edge to `short_edge`, the long one to <=
    `max_size`.

    Computed in floating point and rounded half up, as Detectron2's ResizeShortestEdge: for
    example (375, 500) with 800 and 1333 becomes (800, 1067). With `short_edge` 0 the size does not
    change. A side of a very long image keeps at least 1 px; in Detectron2 it becomes 0 and ends the
    run.
    """
    if short_edge == 0:
        return height, width
    scale = short_edge * 1.0 / min(height, width)
    if height < width:
        new_height, new_width = float(short_edge), scale * width
    else:
        new_height, new_width = scale * height, float(short_edge)
    if max(new_height, new_width) > max_size:
        scale = max_size * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize(pixels: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """Resizes uint8 (H, W, 3) or (H, W) to (height, width), by PIL."""
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((width, height), method))


@dataclass(frozen=True)
class Geometry:
    """Resizes from (height, width) to (new_height, new_width), then flips or not, as drawn."""

    height: int
    width: int
    new_height: int
    new_width: int
    flip: bool

    tightens: ClassVar[bool] = False  # whether boxes are computed from the moved masks

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Transforms uint8 (H, W, 3) to uint8 (new_height, new_width, 3), contiguous."""
        pixels = resize(pixels, self.new_height, self.new_width, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(pixels[:, ::-1] if self.flip else pixels)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Transforms uint8 (H, W) to uint8 (new_height, new_width), nearest neighbour."""
        resized = resize(mask, self.new_height, self.new_width, Image.Resampling.NEAREST)
        return np.ascontiguousarray(resized[:, :: -1 if self.flip else 1])

    def points(self, points: np.ndarray) -> np.ndarray:
        """Moves float64 (n, 2) x, y to the same points in the new image; nothing is clipped."""
        moved = np.array(points, dtype=np.float64).reshape(-1, 2)
        moved[:, 0] = moved[:, 0] * (self.new_width * 1.0 / self.width)
        moved[:, 1] = moved[:, 1] * (self.new_height * 1.0 / self.height)
        if self.flip:
            moved[:, 0] = self.new_width - moved[:, 0]
        return moved

    def polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Moves polygons x, y, x, y, ... of one object to the new image; nothing is clipped."""
        return [self.points(polygon).reshape(-1) for polygon in polygons]

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Moves float64 (n, 4) XYXY to the same boxes in the new image, clipped to it."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        corners = self.points(boxes).reshape(-1, 2, 2)
        moved = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        limit = np.array([self.new_width, self.new_height] * 2, dtype=np.float64)
        return np.minimum(moved.clip(min=0), limit)


@dataclass(frozen=True)
class GeometrySpec:
    """Says what may be drawn: short edges in pixels, the long edge's limit, flips.

    One of the short edges is chosen; with `between` one from the first to the second.
    """

    short_edges: Sequence[int]
    max_size: int
    flip_probability: float = 0.0
    between: bool = False

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """Draws the size, then the flip."""
        if self.between:
            least, most = self.short_edges
            short_edge = int(rng.integers(least, most + 1))
        else:
            short_edge = int(rng.choice(np.asarray(self.short_edges)))
        flip = bool(rng.random() < self.flip_probability)
        return Geometry(
            height, width, *resized_shape(height, width, short_edge, self.max_size), flip
        )
