"""Random crops of training images: a rectangle is cut out, then resized and flipped like a complete
image.

Boxes, polygons and pixels become those of the cut image, with the numbers of Detectron2's
RandomCrop before its ResizeShortestEdge (data/transforms/augmentation_impl.py,
data/dataset_mapper.py). Legend: H, W pixels; n objects or points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pretrain.common.errors import InputError
from transfer.detection.data.cut_polygons import cut_polygons
from transfer.detection.data.transforms import Geometry, GeometrySpec

CROPS = ("relative_range", "relative", "absolute", "absolute_range")


class Draws(Protocol):
    """Describes the draws of numpy's generators."""

    def random(self, size: int | None = None) -> np.ndarray:
        """Returns uniform numbers in [0, 1)."""

    def integers(self, low: int, high: int) -> int:
        """Returns an integer from `low` to below `high`."""


@dataclass(frozen=True)
class CropSpec:
    """Has the keys of the node INPUT.CROP: what is cut out of an image of H x W pixels.

    `relative` cuts H * size[0] x W * size[1]; `relative_range` draws each factor between its size
    and 1; `absolute` cuts size[0] x size[1] pixels, `absolute_range` draws both sides between
    size[0] and size[1] pixels; no side is longer than the image's.
    """

    kind: str
    size: tuple[float, float]

    def __post_init__(self) -> None:
        """Raises InputError, naming the key, for an unknown kind or an impossible size."""
        if self.kind not in CROPS:
            raise InputError(f"INPUT.CROP.TYPE {self.kind!r} is unknown; known: {', '.join(CROPS)}")
        shares = self.kind.startswith("relative")
        if min(self.size) <= 0 or (shares and max(self.size) > 1):
            most = "shares above 0 and at most 1" if shares else "pixels above 0"
            raise InputError(f"INPUT.CROP.SIZE {list(self.size)} must be two {most} ({self.kind})")
        if not shares and any(side != int(side) for side in self.size):
            raise InputError(
                f"INPUT.CROP.SIZE {list(self.size)} must be whole pixels with INPUT.CROP.TYPE "
                f"{self.kind}"
            )
        if self.kind == "absolute_range" and self.size[0] > self.size[1]:
            raise InputError(
                f"INPUT.CROP.SIZE {list(self.size)} must have the smaller number first"
                " (absolute_range)"
            )

    def draw(self, height: int, width: int, rng: Draws) -> tuple[int, int, int, int]:
        """Draws (left, top, width, height) in an image of height x width."""
        cut_height, cut_width = self._shape(height, width, rng)
        top = int(rng.integers(0, height - cut_height + 1))
        left = int(rng.integers(0, width - cut_width + 1))
        return left, top, cut_width, cut_height

    def _shape(self, height: int, width: int, rng: Draws) -> tuple[int, int]:
        least, most = self.size
        if self.kind == "absolute":
            return min(int(least), height), min(int(most), width)
        if self.kind == "absolute_range":
            sides = [
                int(rng.integers(min(side, int(least)), min(side, int(most)) + 1))
                for side in (height, width)
            ]
            return sides[0], sides[1]
        factors = np.asarray(self.size, dtype=np.float32 if self.kind != "relative" else None)
        if self.kind == "relative_range":
            factors = factors + rng.random(2) * (1 - factors)
        # Detectron2 stops at an image whose crop is rounded to 0 pixels.
        return max(1, int(height * factors[0] + 0.5)), max(1, int(width * factors[1] + 0.5))


@dataclass(frozen=True)
class CroppedGeometry(Geometry):
    """Is one drawn transform: a cut of (height, width) pixels that begins at (left, top), then a
    resize and perhaps a flip. If there are masks, boxes are those of the cut masks.
    """

    left: int
    top: int

    tightens = True

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Cuts and resizes uint8 (H, W, 3) to uint8 (new_height, new_width, 3), contiguous."""
        return super().image(self._cut(pixels))

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Cuts and resizes uint8 (H, W) to uint8 (new_height, new_width), nearest neighbour."""
        return super().mask(self._cut(mask))

    def points(self, points: np.ndarray) -> np.ndarray:
        """Moves float64 (n, 2) x, y to the same points in the new image; nothing is clipped."""
        moved = np.array(points, dtype=np.float64).reshape(-1, 2)
        return super().points(moved - (self.left, self.top))

    def polygons(self, polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Cuts and resizes an object's polygons x, y, x, y, ...; often no part of them is left."""
        window = (self.left, self.top, self.width, self.height)
        parts = cut_polygons([np.reshape(polygon, (-1, 2)) for polygon in polygons], *window)
        return [super(CroppedGeometry, self).points(part).reshape(-1) for part in parts]

    def _cut(self, pixels: np.ndarray) -> np.ndarray:
        rows = slice(self.top, self.top + self.height)
        return pixels[rows, self.left : self.left + self.width]


@dataclass(frozen=True)
class CroppedSpec:
    """Says what may be drawn: a crop, then the size of the cut image, and flips."""

    crop: CropSpec
    geometry: GeometrySpec

    def draw(self, height: int, width: int, rng: np.random.Generator) -> CroppedGeometry:
        """Draws the crop, the size, then the flip."""
        left, top, cut_width, cut_height = self.crop.draw(height, width, rng)
        after = self.geometry.draw(cut_height, cut_width, rng)
        return CroppedGeometry(**vars(after), left=left, top=top)
