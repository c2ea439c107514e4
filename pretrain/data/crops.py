"""Random resized crops of one decoded image, in the loader's workers: an image in, uint8 out.

The box is drawn by torchvision's algorithm (`RandomResizedCrop.get_params`: ten tries, then the
central crop). Pillow or torch resamples it, see `RESIZES`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pretrain.common.errors import InputError

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

# Both resample the same box with the same antialiased filter. "pillow" reads from the full image,
# so its filter also reads the pixels around the box. "torch" reads from the cut box and repeats its
# edge, as torchvision's RandomResizedCrop does; a worker then needs about two thirds of the time.
# 99 % of the values of photographs are equal. With bilinear interpolation, values further than 3 px
# from the crop's edge differ by one level at most, see benchmarks/resize.py.
RESIZES = ("pillow", "torch")


@dataclass(frozen=True)
class CropSpec:
    """Describes one view's crop: a square of `size` px, whose share of the area is drawn from
    `scale` and whose width / height is drawn from `ratio` (log-uniform). torchvision's
    RandomResizedCrop has scale (0.08, 1); so does SimCLR.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(
                f"unknown crop interpolation {self.interpolation!r};"
                f" known: {', '.join(INTERPOLATIONS)}"
            )
        if self.size < 1:
            raise InputError(f"crop size {self.size} must be at least 1 px")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise InputError(f"crop scale {self.scale} must be two increasing shares of the area")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise InputError(f"crop ratio {self.ratio} must be two increasing positive ratios")


def draw_crop_box(
    width: int, height: int, spec: CropSpec, draws: random.Random
) -> tuple[int, int, int, int]:
    """Draws a crop as torchvision's `RandomResizedCrop.get_params` does.

    Returns (left, top, right, bottom) in pixels of the image, half-open.
    """
    area = width * height
    log_ratio = (math.log(spec.ratio[0]), math.log(spec.ratio[1]))
    for _ in range(10):
        target = area * draws.uniform(*spec.scale)
        aspect = math.exp(draws.uniform(*log_ratio))
        w = round(math.sqrt(target * aspect))
        h = round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = draws.randint(0, height - h)
            left = draws.randint(0, width - w)
            return left, top, left + w, top + h
    return central_box(width, height, spec.ratio)


def central_box(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """Returns the largest central box whose aspect is in `ratio`: torchvision's fallback."""
    w, h = width, height
    if width / height < ratio[0]:
        h = round(w / ratio[0])
    elif width / height > ratio[1]:
        w = round(h * ratio[1])
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def crop_image(image: Image.Image | np.ndarray, spec: CropSpec, draws: random.Random) -> np.ndarray:
    """Draws and resamples one crop, `(S, S, 3)` uint8.

    Args:
        image: an RGB image, which Pillow resizes, or its pixels (H, W, 3) uint8, which torch
            resizes.
    """
    size = (spec.size, spec.size)
    if isinstance(image, Image.Image):
        box = draw_crop_box(image.width, image.height, spec, draws)
        return np.asarray(image.resize(size, INTERPOLATIONS[spec.interpolation], box=box))
    height, width = image.shape[:2]
    left, top, right, bottom = draw_crop_box(width, height, spec, draws)
    # Add the batch axis first. Otherwise torch does not see that the channels are last in memory,
    # and gives a result that has to be transposed.
    cut = torch.from_numpy(image[top:bottom, left:right])[None].permute(0, 3, 1, 2)
    resized = F.interpolate(cut, size, mode=spec.interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def central_part(image: Image.Image, most: int = 50) -> Image.Image:
    """Returns the centre of a very long image, at most `most` times as long as wide. Other images
    are returned unchanged.

    A centre crop sees no more of the image, and resizing a complete strip could fill the memory.
    """
    limit = most * min(image.size)
    width, height = (min(side, limit) for side in image.size)
    if (width, height) == image.size:
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
