"""Resizing, flipping and clipping against PIL and against a slow, obvious reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.detection.data.transforms import (
    Geometry,
    GeometrySpec,
    read_image,
    resized_shape,
)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500, 800, 1333), (800, 1067)),
        ((100, 900, 800, 1333), (148, 1333)),
        ((500, 375, 800, 1333), (1067, 800)),
        ((50, 50, 0, 10), (50, 50)),
        ((224, 224, 192, 320), (192, 192)),
    ],
)
def test_resized_shape(size: tuple, expected: tuple) -> None:
    assert resized_shape(*size) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2, 900, 64, 128), (1, 128)),
        ((900, 1, 800, 1333), (1333, 1)),
        ((1, 5000, 8, 16), (1, 16)),
        ((3, 900, 64, 150), (1, 150)),  # 0.5 rounds up, as in Detectron2
    ],
)
def test_strips_keep_a_pixel(size: tuple, expected: tuple) -> None:
    assert resized_shape(*size) == expected
    pixels = np.zeros((size[0], size[1], 3), np.uint8)
    assert Geometry(*size[:2], *expected, False).image(pixels).shape == (*expected, 3)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_16_bits_are_read_as_the_8_bit_picture(tmp_path: Path, order: str) -> None:
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:5040].reshape(70, 72)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_image(str(tmp_path / "a.png"), order)
    assert found.shape == (70, 72, 3)
    assert np.abs(found - np.round(values / 257.0)[..., None]).max() <= 1


def test_floats_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4), 0.25).save(tmp_path / "a.tif")
    with pytest.raises(
        InputError, match=r"^image .*a\.tif \(mode F, values 0.25 to 0.25\) is refused"
    ):
        read_image(str(tmp_path / "a.tif"), "RGB")


@pytest.mark.parametrize("new", [(20, 31), (55, 80), (37, 50)])
@pytest.mark.parametrize("flip", [False, True])
def test_pixels_are_pils(new: tuple[int, int], flip: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((new[1], new[0]), Image.Resampling.BILINEAR)
    if flip:
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    found = Geometry(37, 50, *new, flip).image(pixels)
    np.testing.assert_array_equal(found, np.asarray(expected))


def test_bgr_is_resized_like_rgb() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    geometry = Geometry(9, 8, 18, 16, False)
    np.testing.assert_array_equal(
        geometry.image(pixels[:, :, ::-1])[:, :, ::-1], geometry.image(pixels)
    )


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_against_a_loop(flip: bool) -> None:
    boxes = np.random.default_rng(2).uniform(-5, 60, (20, 4))
    boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + np.abs(boxes[:, 2:])], axis=1)
    found = Geometry(40, 50, 60, 100, flip).boxes(boxes)
    for box, result in zip(boxes, found):
        x1, y1, x2, y2 = box[0] * 2.0, box[1] * 1.5, box[2] * 2.0, box[3] * 1.5
        if flip:
            x1, x2 = 100 - x2, 100 - x1
        expected = [min(max(x1, 0), 100), min(max(y1, 0), 60)]
        expected += [min(max(x2, 0), 100), min(max(y2, 0), 60)]
        np.testing.assert_allclose(result, expected, atol=1e-12)


def test_mask_moves_with_its_box() -> None:
    mask = np.zeros((10, 20), dtype=np.uint8)
    mask[2:5, 3:9] = 1
    geometry = Geometry(10, 20, 30, 60, True)
    rows, columns = np.where(geometry.mask(mask))
    (box,) = geometry.boxes(np.array([[3.0, 2.0, 9.0, 5.0]]))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == tuple(box)


def test_points_are_not_clipped() -> None:
    moved = Geometry(10, 10, 20, 20, True).points(np.array([[-1.0, 12.0]]))
    np.testing.assert_array_equal(moved, [[22.0, 24.0]])


def test_draws() -> None:
    spec = GeometrySpec((10, 20, 30), 1000, 0.5)
    draws = [spec.draw(10, 10, np.random.default_rng([0, i])) for i in range(300)]
    sizes = np.bincount([draw.new_height for draw in draws], minlength=31)[[10, 20, 30]]
    assert sizes.sum() == 300 and sizes.min() > 75
    assert 110 < sum(draw.flip for draw in draws) < 190


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[0, 0] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    found = read_image(str(tmp_path / "a.png"), "BGR")
    assert found.shape == (6, 4, 3) and tuple(found[0, 3]) == (0, 0, 255)


def test_truncated_image(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"a\.jpg cannot be read"):
        read_image(str(path), "RGB")
