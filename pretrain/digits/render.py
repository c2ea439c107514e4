"""Draws scikit-learn's handwritten digits on crops of its two sample photographs.

Backgrounds are uint8 (S, S, 3) RGB arrays, glyphs are float32 (h, w) alpha maps in [0, 1], where a
pixel with alpha >= 0.5 counts as visible. All draws come from numpy generators that are passed in.
Digits and photographs are split so that train, val and test share neither strokes nor scenery.
"""

from __future__ import annotations

import colorsys
import math
from functools import lru_cache

import numpy as np
from PIL import Image

SPLITS = ("train", "val", "test")
NUM_CLASSES = 10
VISIBLE_ALPHA = 0.5

# There are 1,797 digits. The first 1,300 are for training; the last 200 of these are validation.
_DIGIT_RANGES = {"train": (0, 1100), "val": (1100, 1300), "test": (1300, 1797)}
# Left, top, right, bottom as fractions of a photograph. The test split has the right 40 %, and
# validation has the lower third of the left part, so no pixel is in two splits.
_REGIONS = {
    "train": (0.0, 0.0, 0.6, 0.67),
    "val": (0.0, 0.67, 0.6, 1.0),
    "test": (0.6, 0.0, 1.0, 1.0),
}
# The digits are ordered by writer. One fixed shuffle (not the user's seed) makes sure that no test
# digit of one seed is a training digit of another seed.
_SHUFFLE_SEED = 20220801
_PAD = 2  # cells of empty margin around the 8x8 strokes, room for rotation
_STROKE_LOW, _STROKE_HIGH = 0.2, 0.55  # ink levels that become alpha 0 and 1
_MIN_CONTRAST = 0.25  # least difference of luma (0..1) between a digit and its background


@lru_cache(maxsize=None)
def digit_pool(split: str) -> tuple[np.ndarray, ...]:
    """Returns the split's digits: one uint8 (n, 8, 8) array of ink (0..255) for each class 0..9."""
    from sklearn.datasets import load_digits

    data = load_digits()
    low, high = _DIGIT_RANGES[split]
    order = np.random.default_rng(_SHUFFLE_SEED).permutation(len(data.target))[low:high]
    ink = np.round(data.images[order] * (255 / 16)).astype(np.uint8)
    return tuple(ink[data.target[order] == digit] for digit in range(NUM_CLASSES))


@lru_cache(maxsize=None)
def photo_regions(split: str) -> tuple[Image.Image, ...]:
    """Returns the parts of the two sample photographs that belong to a split (RGB images)."""
    from sklearn.datasets import load_sample_images

    left, top, right, bottom = _REGIONS[split]
    regions = []
    for pixels in load_sample_images().images:
        height, width = pixels.shape[:2]
        box = (left * width, top * height, right * width, bottom * height)
        x0, y0, x1, y1 = map(round, box)
        regions.append(Image.fromarray(pixels).crop((x0, y0, x1, y1)))
    return tuple(regions)


def draw_background(
    split: str, side: int, zoom: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Returns a random square crop of the split's photographs, at full contrast, half of them
    mirrored.

    The crop's side is `side * u` photo pixels with u uniform in `zoom` (as far as the region
    allows), resized to uint8 (side, side, 3).
    """
    regions = photo_regions(split)
    photo = regions[rng.integers(len(regions))]
    crop = min(round(side * rng.uniform(*zoom)), *photo.size)
    x = int(rng.integers(photo.width - crop + 1))
    y = int(rng.integers(photo.height - crop + 1))
    resized = photo.resize((side, side), Image.Resampling.BILINEAR, (x, y, x + crop, y + crop))
    pixels = np.asarray(resized)
    return (pixels[:, ::-1] if rng.random() < 0.5 else pixels).copy()


def draw_glyph(ink: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """Draws smoothly upscaled, slightly rotated and narrowed or widened strokes.

    ink: uint8 (8, 8). height: pixels that the 8 cells take before the rotation. Returns alpha
    float32 (h, w), cut to its visible pixels plus at most one pixel of soft edge.
    """
    angle = rng.uniform(-0.3, 0.3)  # radians, about 17 degrees
    cell_y = height / 8
    cell_x = cell_y * rng.uniform(0.85, 1.2)
    padded = Image.fromarray(np.pad(ink, _PAD))
    centre = padded.width / 2
    side = math.ceil(padded.width * max(cell_x, cell_y) * 1.2)
    cos, sin = math.cos(angle), math.sin(angle)
    # PIL maps output pixels to input cells: rotate about the centre, divide by the cell's size.
    a, b, d, e = cos / cell_x, sin / cell_x, -sin / cell_y, cos / cell_y
    offset_x = centre - (a + b) * side / 2
    offset_y = centre - (d + e) * side / 2
    strokes = padded.transform(
        (side, side),
        Image.Transform.AFFINE,
        (a, b, offset_x, d, e, offset_y),
        Image.Resampling.BICUBIC,
    )
    level = np.asarray(strokes, np.float32) / 255
    alpha = np.clip((level - _STROKE_LOW) / (_STROKE_HIGH - _STROKE_LOW), 0, 1)
    top, left, bottom, right = tight_box(alpha >= VISIBLE_ALPHA)
    return alpha[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]


def tight_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns (top, left, bottom, right) of the true pixels of a bool (H, W) mask: 0-based,
    half-open.

    Raises ValueError when no pixel is true.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def luma(rgb: np.ndarray) -> float:
    """Returns the mean brightness in [0, 1] of uint8 (..., 3) pixels, ITU-R BT.601 weights."""
    return float(rgb.reshape(-1, 3).mean(0) @ (0.299, 0.587, 0.114)) / 255


def draw_colour(behind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random colour, float32 (3,) in 0..255, with a contrast to the uint8 (n, 3) pixels
    behind.

    Only the mean brightness is compared. Textures may still cross the strokes, so the set is hard.
    """
    reference = luma(behind)
    while True:
        hsv = rng.uniform((0, 0.2, 0.0), (1, 1, 1))
        colour = np.array(colorsys.hsv_to_rgb(*hsv), np.float32) * 255
        if abs(luma(colour) - reference) >= _MIN_CONTRAST:
            return colour


def paste(
    canvas: np.ndarray, alpha: np.ndarray, top: int, left: int, rng: np.random.Generator
) -> None:
    """Blends a glyph of a random colour into uint8 (H, W, 3) `canvas` in place, fully inside."""
    height, width = alpha.shape
    behind = canvas[top : top + height, left : left + width]
    colour = draw_colour(behind[alpha >= VISIBLE_ALPHA], rng)
    blended = behind + alpha[..., None] * (colour - behind)
    behind[:] = np.round(blended).astype(np.uint8)
