"""Scaling, cropping, flipping and jitter of images with masks."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
from PIL import Image

from transfer.segmentation import transforms
from transfer.segmentation.transforms import TrainTransform, jitter

H, W = 40, 60


def coordinates() -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is the column and green the row, and a mask of the column's parity x 8."""
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(W), np.arange(H)[:, None]
    mask = np.zeros((H, W), np.uint8)
    mask[:] = np.arange(W) // 8
    return pixels, mask


def transform(**changes: object) -> TrainTransform:
    options = {"short_edges": (0,), "max_size": 99, "scale_range": (1.0, 1.0), "crop_size": 24}
    return TrainTransform(**{**options, **changes})


def test_crop_and_flip_move_image_and_mask_alike() -> None:
    pixels, mask = coordinates()
    corners, flips = set(), set()
    for seed in range(300):
        new, labels = transform()(pixels, mask, np.random.default_rng(seed))
        assert new.shape == (24, 24, 3) and labels.shape == (24, 24)
        columns, rows = new[..., 0].astype(int), new[..., 1].astype(int)
        assert np.array_equal(labels, columns // 8)
        step = columns[0, 1] - columns[0, 0]
        assert (np.diff(columns, axis=1) == step).all() and (np.diff(rows, axis=0) == 1).all()
        corners.add((rows.min(), columns.min()))
        flips.add(step)
    assert flips == {1, -1}
    assert {min(c) for c in zip(*corners)} == {0}
    assert tuple(max(c) for c in zip(*corners)) == (H - 24, W - 24)
    always = transform(flip_probability=1.0)(pixels, mask, np.random.default_rng(0))
    never = transform(flip_probability=0.0)(pixels, mask, np.random.default_rng(0))
    assert np.array_equal(always[0], never[0][:, ::-1])


def test_small_images_are_taken_whole() -> None:
    pixels, mask = coordinates()
    new, labels = transform(crop_size=50, flip_probability=0.0)(
        pixels, mask, np.random.default_rng(0)
    )
    assert new.shape == (40, 50, 3) and labels.shape == (40, 50)


def test_sizes_are_those_of_the_two_sources() -> None:
    """DeepLab and MoCo scale the original; mmseg scales (2048, 512), then fits the image in."""
    ratios = []
    for seed in range(200):
        height, width = transform(scale_range=(0.5, 2.0)).draw_size(
            375, 500, np.random.default_rng(seed)
        )
        ratios.append(height / 375)
        assert abs(width / 500 - ratios[-1]) < 0.003
    assert 0.5 <= min(ratios) < 0.53 and 1.97 < max(ratios) <= 2.0
    assert np.mean(ratios) == pytest.approx(1.25, abs=0.08)
    mmseg = transform(short_edges=(512,), max_size=2048, scale_range=(0.5, 2.0))
    for seed in range(50):
        rng = np.random.default_rng(seed)
        height, width = mmseg.draw_size(375, 500, rng)
        rng = np.random.default_rng(seed)
        rng.choice(np.asarray((512,)))
        ratio = rng.uniform(0.5, 2.0)
        long_edge, short_edge = int(2048 * ratio), int(512 * ratio)
        factor = min(long_edge / 500, short_edge / 375)
        assert (height, width) == (int(375 * factor + 0.5), int(500 * factor + 0.5))
    # A very long image is limited by the long edge.
    height, width = transform(short_edges=(512,), max_size=2048).draw_size(
        100, 1000, np.random.default_rng(0)
    )
    assert (height, width) == (205, 2048)


def test_masks_are_scaled_by_nearest_neighbour() -> None:
    pixels, mask = coordinates()
    mask[mask == 3] = 255
    twice = transform(scale_range=(2.0, 2.0), crop_size=200, flip_probability=0.0)
    new, labels = twice(pixels, mask, np.random.default_rng(0))
    assert labels.shape == (80, 120) and set(np.unique(labels)) == set(np.unique(mask))
    assert np.array_equal(labels, mask.repeat(2, axis=0).repeat(2, axis=1))
    wanted = Image.fromarray(pixels).resize((120, 80), Image.Resampling.BILINEAR)
    assert np.array_equal(new, np.asarray(wanted))


def test_crops_of_one_class_are_drawn_again() -> None:
    """All tries fail where no crop can do; else the share is kept, 255 counts nowhere."""
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 40:] = 1
    mask[:8] = 255
    shares = {1.0: [], 0.75: []}
    for share, found in shares.items():
        for seed in range(100):
            crop = transform(crop_max_share=share).draw_crop(mask, np.random.default_rng(seed))
            labels = mask[crop][mask[crop] != 255]
            found.append(max((labels == 0).mean(), (labels == 1).mean()))
    assert np.mean(np.array(shares[1.0]) >= 0.75) > 0.4
    assert np.mean(np.array(shares[0.75]) >= 0.75) < 0.05
    alone = np.zeros((64, 64), np.uint8)
    rows, columns = transform(crop_max_share=0.75).draw_crop(alone, np.random.default_rng(0))
    assert alone[rows, columns].shape == (24, 24)
    unlabelled = np.full((64, 64), 255, np.uint8)
    transform(crop_max_share=0.75).draw_crop(unlabelled, np.random.default_rng(0))


class Draws:
    """It replaces a generator: `random` < 0.5 says yes; `uniform` returns what is listed."""

    def __init__(self, yes: list[bool], values: list[float]) -> None:
        self.yes, self.values = list(yes), list(values)

    def random(self) -> float:
        return 0.0 if self.yes.pop(0) else 0.9

    def uniform(self, low: float, high: float) -> float:
        value = self.values.pop(0)
        assert low <= value <= high
        return value


def test_jitter_by_a_loop_over_pixels() -> None:
    """Brightness, contrast, then saturation and hue as colorsys computes them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    bright = jitter(pixels, Draws([True, False, True, False, False], [20.5]))
    assert np.array_equal(bright, np.clip(pixels + 20.5, 0, 255).astype(np.uint8))
    dull = jitter(pixels, Draws([False, True, True, False, False], [0.5]))
    assert np.array_equal(dull, (pixels * 0.5).astype(np.uint8))
    assert np.array_equal(dull, jitter(pixels, Draws([False, True, False, False, False], [0.5])))
    turned = jitter(pixels, Draws([False, False, True, True, True], [0.7, 30.0]))
    wanted = np.zeros_like(pixels, dtype=float)
    for place in np.ndindex(6, 7):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        wanted[place] = colorsys.hsv_to_rgb((hue + 30 / 360) % 1, saturation * 0.7, value)
    assert np.abs(turned - 255 * wanted).max() <= 6  # hue and saturation in 256 steps
    same = jitter(pixels, Draws([False] * 5, []))
    assert np.array_equal(same, pixels)
    assert transforms.HUE_DEGREES == 36 and transforms.BRIGHTNESS == 32


def test_jitter_draws_half_of_the_time_and_repeats() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    results = [jitter(pixels, np.random.default_rng(seed)) for seed in range(200)]
    again = jitter(pixels, np.random.default_rng(7))
    assert np.array_equal(again, results[7])
    unchanged = np.mean([np.array_equal(result, pixels) for result in results])
    assert 0.02 < unchanged < 0.15  # 1 in 16
