"""Crop boxes follow torchvision's RandomResizedCrop, draw for draw; the pixels follow PIL's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from pretrain.common.errors import InputError
from pretrain.data.crops import INTERPOLATIONS, CropSpec, central_box, crop_image, draw_crop_box


@pytest.mark.parametrize("width, height", [(500, 375), (64, 64), (20, 300), (300, 20), (1, 1)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_boxes_equal_torchvision(
    width: int, height: int, scale: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's algorithm, fed with the very numbers that ours draws."""
    spec = CropSpec(32, scale)
    image = Image.new("RGB", (width, height))
    for seed in range(40):
        numbers = random.Random(seed)

        class Filled:
            """It replaces the tensor whose `uniform_` torchvision reads."""

            def uniform_(self, low: float, high: float) -> torch.Tensor:
                return torch.tensor([numbers.uniform(float(low), float(high))], dtype=torch.float64)

        def randint(low: int, high: int, size: tuple[int, ...]) -> torch.Tensor:
            return torch.tensor([numbers.randint(low, high - 1)])

        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", lambda *_: Filled())
            patch.setattr(torch, "randint", randint)
            # In float64, as ours: a float32 bound may round a box to the next pixel.
            patch.setattr(torch, "log", lambda t: torch.Tensor.log(t.double()))
            top, left, h, w = RandomResizedCrop.get_params(image, list(scale), list(spec.ratio))
        box = draw_crop_box(width, height, spec, random.Random(seed))
        assert box == (left, top, left + w, top + h)


def test_statistics_equal_torchvision() -> None:
    spec, image = CropSpec(32), Image.new("RGB", (120, 80))
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)]
    draws = random.Random(0)
    ours = [draw_crop_box(120, 80, spec, draws) for _ in range(3000)]
    ours = [(top, left, bottom - top, right - left) for left, top, right, bottom in ours]
    for a, b in zip(np.array(theirs, float).T, np.array(ours, float).T):
        assert abs(a.mean() - b.mean()) < 1.5 and abs(a.std() - b.std()) < 1.5


def test_central_box() -> None:
    assert central_box(300, 20, (3 / 4, 4 / 3)) == (136, 0, 163, 20)
    assert central_box(20, 300, (3 / 4, 4 / 3)) == (0, 136, 20, 163)
    assert central_box(40, 40, (3 / 4, 4 / 3)) == (0, 0, 40, 40)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_equal_crop_then_resize_inside(interpolation: str) -> None:
    """PIL's box differs from crop-then-resize at the crop's rim only."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    spec = CropSpec(16, (0.3, 1.0), interpolation=interpolation)
    for seed in range(10):
        got = crop_image(image, spec, random.Random(seed)).astype(int)
        left, top, right, bottom = draw_crop_box(120, 90, spec, random.Random(seed))
        expected = F.resized_crop(
            image,
            top,
            left,
            bottom - top,
            right - left,
            [16, 16],
            F.InterpolationMode(interpolation),
        )
        difference = np.abs(got - np.asarray(expected).astype(int))[3:-3, 3:-3]
        assert got.shape == (16, 16, 3) and difference.max() <= 1


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"size": 0}, "size"),
        ({"size": 8, "scale": (0.5, 0.1)}, "scale"),
        ({"size": 8, "ratio": (2.0, 1.0)}, "ratio"),
        ({"size": 8, "interpolation": "cubic"}, "bicubic"),
    ],
)
def test_bad_spec(wrong: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        CropSpec(**wrong)


SHAPES = [(375, 500), (64, 64), (90, 33), (20, 300), (8, 8)]


def photo(height: int, width: int, seed: int) -> np.ndarray:
    """Noise with smooth parts, (H, W, 3) uint8: every value occurs."""
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(height)[:, None, None] / 9) * np.cos(np.arange(width)[:, None] / 7)
    pixels = 128 + 90 * waves + rng.normal(0, 40, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", SHAPES)
def test_torch_resizes_as_pillow_resizes_the_cut_box(
    shape: tuple[int, int], interpolation: str
) -> None:
    spec = CropSpec(24, interpolation=interpolation)
    for seed in range(8):
        pixels = photo(*shape, seed)
        got = crop_image(pixels, spec, random.Random(seed))
        assert got.shape == (24, 24, 3) and got.dtype == np.uint8
        box = draw_crop_box(shape[1], shape[0], spec, random.Random(seed))
        cut = Image.fromarray(pixels).crop(box).resize((24, 24), INTERPOLATIONS[interpolation])
        difference = np.abs(got.astype(int) - np.asarray(cut))
        # Cubic weights overshoot: what is clipped between the two passes differs on noise.
        assert (difference > 1).mean() <= (0 if interpolation == "bilinear" else 0.03)
        assert difference.mean() < 0.4


def test_torch_and_pillow_differ_at_the_edges_alone() -> None:
    equal = []
    for seed in range(10):
        pixels = photo(375, 500, seed)
        ours, theirs = (
            crop_image(image, CropSpec(64), random.Random(seed)).astype(int)
            for image in (pixels, Image.fromarray(pixels))
        )
        assert np.abs(ours - theirs)[3:-3, 3:-3].max() <= 1
        equal.append((ours == theirs).mean())
    assert np.mean(equal) > 0.93


def slowly_resized(values: np.ndarray, size: int) -> np.ndarray:
    """The antialiased bilinear filter along the first axis, from its definition: each new value is
    the mean under a triangle, as wide as an old or a new pixel, whichever is wider."""
    scale = len(values) / size
    width = max(scale, 1.0)
    out = np.empty((size, *values.shape[1:]))
    for place in range(size):
        centre = (place + 0.5) * scale
        weights = [max(0.0, 1 - abs(i + 0.5 - centre) / width) for i in range(len(values))]
        out[place] = np.tensordot(np.array(weights) / sum(weights), values, 1)
    return np.floor(out + 0.5).clip(0, 255)


@pytest.mark.parametrize("shape", SHAPES)
def test_torch_equals_a_slow_reference(shape: tuple[int, int]) -> None:
    spec, pixels = CropSpec(16), photo(*shape, 5)
    left, top, right, bottom = draw_crop_box(shape[1], shape[0], spec, random.Random(1))
    cut = pixels[top:bottom, left:right].astype(float)
    rows = slowly_resized(cut.swapaxes(0, 1), 16).swapaxes(0, 1)  # columns first, as both do
    expected = slowly_resized(rows, 16)
    difference = np.abs(crop_image(pixels, spec, random.Random(1)) - expected)
    assert difference.max() <= 1 and difference.mean() < 0.1
