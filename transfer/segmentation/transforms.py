"""Transforms an image and its mask to an input of the segmenter.

An input is a dict: "image" uint8 (3, h, w) RGB, "mask" uint8 (h, w), "image_id", "file_name",
"height" and "width" of the original image. For training it is scaled, cropped to at most CROP x
CROP, flipped and jittered; for testing it is resized, and the mask keeps its original size. The
model normalises and pads (`fcn.py`), because the high-pass filter is between the two.

Legend: H, W original pixels; h, w those of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.detection.data.transforms import Geometry, read_image, resized_shape
from transfer.segmentation.data import IGNORE, SemanticSample, check_values

CROP_TRIES = 10
# The values of mmseg's PhotoMetricDistortion; each change is made to half of the images.
BRIGHTNESS = 32.0  # largest change, of 255
FACTORS = (0.5, 1.5)  # range of the factors on contrast and on saturation
HUE_DEGREES = 36  # OpenCV's 8-bit hue counts 2 degrees: 18 of 180


@dataclass(frozen=True)
class TrainTransform:
    """Is the random transform of a training image.

    `short_edges` and `max_size` give a size, which is multiplied by a factor from `scale_range`; a
    short edge of 0 means the image's original size. If `crop_max_share` is below 1, a crop in which
    one class has this share or more of the labelled pixels is drawn again (up to 10 times).
    """

    short_edges: Sequence[int]
    max_size: int
    scale_range: tuple[float, float]
    crop_size: int
    crop_max_share: float = 1.0
    flip_probability: float = 0.5
    color_jitter: bool = False

    def __call__(
        self, pixels: np.ndarray, mask: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Maps uint8 (H, W, 3), (H, W) to uint8 (h, w, 3), (h, w) with h, w <= crop_size."""
        height, width = mask.shape
        geometry = Geometry(height, width, *self.draw_size(height, width, rng), flip=False)
        pixels, mask = geometry.image(pixels), geometry.mask(mask)
        rows, columns = self.draw_crop(mask, rng)
        pixels, mask = pixels[rows, columns], mask[rows, columns]
        if rng.random() < self.flip_probability:
            pixels, mask = pixels[:, ::-1], mask[:, ::-1]
        if self.color_jitter:
            pixels = jitter(np.ascontiguousarray(pixels), rng)
        return np.ascontiguousarray(pixels), np.ascontiguousarray(mask)

    def draw_size(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
        """Draws the size to which the full image is scaled."""
        short_edge = int(rng.choice(np.asarray(self.short_edges)))
        ratio = rng.uniform(*self.scale_range)
        return scaled_shape(height, width, short_edge, self.max_size, ratio)

    def draw_crop(self, mask: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice]:
        """Draws rows and columns of the crop, uniform over all crops inside the image."""
        crop = self._crop(mask.shape, rng)
        for _ in range(CROP_TRIES if self.crop_max_share < 1.0 else 0):
            counts = np.bincount(mask[crop].reshape(-1), minlength=256)[:IGNORE]
            # A crop with only one class is also rejected, for any share (mmseg's rule).
            if counts.max() < self.crop_max_share * counts.sum():
                break
            crop = self._crop(mask.shape, rng)
        return crop

    def _crop(self, shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
        begins = [int(rng.integers(max(side - self.crop_size, 0) + 1)) for side in shape]
        rows, columns = (slice(begin, begin + self.crop_size) for begin in begins)
        return rows, columns


def scaled_shape(
    height: int, width: int, short_edge: int, max_size: int, ratio: float
) -> tuple[int, int]:
    """Returns the size (h, w) of an image (H, W) whose test or training size is scaled by `ratio`.

    The short edge becomes `short_edge` unless the long one would exceed `max_size`; 0: the original
    size.
    """
    if short_edge == 0:
        return max(1, int(height * ratio + 0.5)), max(1, int(width * ratio + 0.5))
    edges = max(1, int(short_edge * ratio)), max(1, int(max_size * ratio))
    return resized_shape(height, width, *edges)


def jitter(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes brightness, contrast, saturation and hue, drawn as in mmseg's PhotoMetricDistortion.

    Input and output are uint8 RGB (h, w, 3). Contrast scales around 0 and comes second or last. The
    colour space is PIL's 8-bit HSV, whose hue has 256 steps; OpenCV's has 180.
    """
    if rng.random() < 0.5:
        pixels = _clip(pixels.astype(np.float32) + rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    contrast = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    contrast_first = rng.random() < 0.5
    saturation = rng.uniform(*FACTORS) if rng.random() < 0.5 else 1.0
    turn = rng.uniform(-HUE_DEGREES, HUE_DEGREES) if rng.random() < 0.5 else 0.0
    if contrast_first:
        pixels = _clip(pixels * np.float32(contrast))
    if saturation != 1.0 or turn != 0.0:
        hsv = np.array(Image.fromarray(pixels).convert("HSV"))
        hsv[..., 1] = _clip(hsv[..., 1] * np.float32(saturation))
        hsv[..., 0] = (hsv[..., 0].astype(int) + round(turn * 256 / 360)) % 256
        pixels = np.asarray(
            Image.frombytes("HSV", (hsv.shape[1], hsv.shape[0]), hsv.tobytes()).convert("RGB")
        )
    return pixels if contrast_first else _clip(pixels * np.float32(contrast))


def _clip(values: np.ndarray) -> np.ndarray:
    return values.clip(0, 255).astype(np.uint8)


@dataclass(frozen=True)
class TrainMapper:
    """Draws the transform of a training image from (seed, position), and applies it.

    `position` counts samples since the start of training, over all processes, as in detection.
    """

    transform: TrainTransform
    num_classes: int
    seed: int

    def __call__(self, sample: SemanticSample, position: int) -> dict[str, Any]:
        pixels, mask = read_pair(sample, self.num_classes)
        rng = np.random.default_rng([self.seed, position])
        return _described(sample, *self.transform(pixels, mask, rng), mask.shape)


@dataclass(frozen=True)
class InferenceMapper:
    """Resizes a test image (not if `short_edge` is 0) but not its mask; ignores `position`.

    With `scales` the input also has "scaled": a list of the image at each of these factors on its
    test size.
    """

    short_edge: int
    max_size: int
    num_classes: int
    scales: Sequence[float] = ()

    def __call__(self, sample: SemanticSample, position: int) -> dict[str, Any]:
        pixels, mask = read_pair(sample, self.num_classes)
        height, width = mask.shape

        def resized(ratio: float) -> np.ndarray:
            size = scaled_shape(height, width, self.short_edge, self.max_size, ratio)
            return Geometry(height, width, *size, flip=False).image(pixels)

        item = _described(sample, resized(1.0), mask, mask.shape)
        if self.scales:
            item["scaled"] = [_as_tensor(resized(ratio)) for ratio in self.scales]
        return item


def read_pair(sample: SemanticSample, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 RGB (H, W, 3) and the mask (H, W); InputError if their sizes differ."""
    pixels, mask = read_image(sample.file_name, "RGB"), sample.mask()
    if pixels.shape[:2] != mask.shape:
        raise InputError(
            f"mask {sample.mask_name} has {mask.shape[1]} x {mask.shape[0]} pixels, but its image "
            f"has {pixels.shape[1]} x {pixels.shape[0]}; give both the same size"
        )
    check_values(mask, num_classes, sample.mask_name)
    return pixels, mask


def _described(
    sample: SemanticSample, pixels: np.ndarray, mask: np.ndarray, original: tuple[int, ...]
) -> dict[str, Any]:
    return {
        "image": _as_tensor(pixels),
        "mask": torch.from_numpy(np.array(mask)),
        "height": original[0],
        "width": original[1],
        "image_id": sample.image_id,
        "file_name": sample.file_name,
    }


def _as_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Maps uint8 (h, w, 3) to (3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
