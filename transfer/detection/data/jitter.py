"""Large-scale jitter: an image flipped, resized by a wide range of factors, and cut to a square.

Boxes, polygons and pixels of an image become those of the cut image, with the numbers of
Detectron2's RandomFlip, ResizeScale and FixedSizeCrop (data/transforms/augmentation_impl.py) in
ViTDet's order and without padding. Polygons are cut by shapely, as in Detectron2.

Legend: H, W pixels; n objects or points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from transfer.detection.data.cut_polygons import cut_polygons
from transfer.detection.data.transforms import Geometry, Random, resize


@dataclass(frozen=True)
class JitteredGeometry(Geometry):
    """Is one drawn transform: a flip, then a resize to (scaled_height, scaled_width), then a cut.

    What is cut out begins at (left, top) and has (new_height, new_width).
    """

    scaled_height: int
    scaled_width: int
    left: int
    top: int

    tightens = True

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Resizes and cuts uint8 (H, W, 3) to uint8 (new_height, new_width, 3), contiguous."""
        return self._cut(pixels, Image.Resampling.BILINEAR)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Resizes and cuts uint8 (H, W) to uint8 (new_height, new_width), nearest neighbour."""
        return self._cut(mask, Image.Resampling.NEAREST)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Moves float64 (n, 2) x, y to the same points in the new image; nothing is clipped."""
        return self._scaled(points) - (self.left, self.top)

    def polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Resizes and cuts polygons x, y, x, y, ... of one object; often no part of them is left.

        Raises InputError if shapely is not installed.
        """
        window = (self.left, self.top, self.new_width, self.new_height)
        whole = [self._scaled(np.asarray(polygon)) for polygon in polygons]
        return [part.reshape(-1) for part in cut_polygons(whole, *window)]

    def _cut(self, pixels: np.ndarray, method: Image.Resampling) -> np.ndarray:
        flipped = pixels[:, ::-1] if self.flip else pixels
        scaled = resize(flipped, self.scaled_height, self.scaled_width, method)
        rows = slice(self.top, self.top + self.new_height)
        return np.ascontiguousarray(scaled[rows, self.left : self.left + self.new_width])

    def _scaled(self, points: np.ndarray) -> np.ndarray:
        moved = np.array(points, dtype=np.float64).reshape(-1, 2)
        if self.flip:
            moved[:, 0] = self.width - moved[:, 0]
        moved[:, 0] = moved[:, 0] * (self.scaled_width * 1.0 / self.width)
        moved[:, 1] = moved[:, 1] * (self.scaled_height * 1.0 / self.height)
        return moved


@dataclass(frozen=True)
class JitterSpec:
    """Says what may be drawn: a factor on the square that the image is fitted into, and the cut's
    place.

    `scales` are the smallest and the largest factor, `size` is the square's side in pixels.
    """

    scales: tuple[float, float]
    size: int
    flip_probability: float = 0.0

    def draw(self, height: int, width: int, rng: Random) -> JitteredGeometry:
        """Draws the flip, the factor, then the place: three uniform numbers. With numpy's generator
        in the same state, Detectron2 draws the same.
        """
        flip = bool(rng.uniform(0.0, 1.0) < self.flip_probability)
        target = self.size * rng.uniform(*self.scales)
        factor = min(target / height, target / width)
        scaled_height, scaled_width = (max(1, round(side * factor)) for side in (height, width))
        place = rng.uniform(0.0, 1.0)
        top, left = (
            round(max(side - self.size, 0) * place) for side in (scaled_height, scaled_width)
        )
        return JitteredGeometry(
            height=height,
            width=width,
            new_height=min(scaled_height, self.size),
            new_width=min(scaled_width, self.size),
            flip=flip,
            scaled_height=scaled_height,
            scaled_width=scaled_width,
            left=left,
            top=top,
        )
