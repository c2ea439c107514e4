"""Large-scale jitter against loops over pixels and points; polygons against filled ones."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.import_shapely import import_shapely
from transfer.datasets.samples import Instance, Sample
from transfer.detection.data.jitter import JitteredGeometry, JitterSpec
from transfer.detection.data.mapper import TrainMapper

# 10 x 20 pixels, mirrored, enlarged to 30 x 40, of which 16 x 16 from row 5, column 7 are left.
CUT = JitteredGeometry(10, 20, 16, 16, True, 30, 40, left=7, top=5)
TRIANGLE = [2.0, 1.0, 18.0, 4.0, 6.0, 9.0]


def test_drawn_sizes_and_places() -> None:
    spec = JitterSpec((0.1, 2.0), 64, 0.5)
    rng, generator = np.random.default_rng(0), np.random.default_rng(0)
    flips = set()
    for _ in range(200):
        drawn = spec.draw(30, 50, rng)
        flip, factor, place = generator.uniform(size=3)
        flips.add(drawn.flip)
        assert drawn.flip == (flip < 0.5)
        side = 64 * (0.1 + 1.9 * factor)  # the long edge's
        assert (
            abs(drawn.scaled_width - side) <= 0.5 and abs(drawn.scaled_height - 0.6 * side) <= 0.5
        )
        assert drawn.new_width == min(drawn.scaled_width, 64)
        assert drawn.new_height == min(drawn.scaled_height, 64)
        assert abs(drawn.left - max(drawn.scaled_width - 64, 0) * place) <= 0.5
        assert abs(drawn.top - max(drawn.scaled_height - 64, 0) * place) <= 0.5
    assert flips == {True, False}
    flat = JitterSpec((0.1, 0.1), 20, 0.0).draw(1, 900, rng)
    assert (flat.scaled_height, flat.scaled_width) == (1, 2), "no side of nothing"


def test_pixels_are_pils() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (10, 20, 3), dtype=np.uint8)
    mirrored = Image.fromarray(pixels).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    expected = mirrored.resize((40, 30), Image.Resampling.BILINEAR).crop((7, 5, 23, 21))
    np.testing.assert_array_equal(CUT.image(pixels), np.asarray(expected))
    nearest = mirrored.resize((40, 30), Image.Resampling.NEAREST).crop((7, 5, 23, 21))
    np.testing.assert_array_equal(CUT.mask(pixels[:, :, 0]), np.asarray(nearest)[:, :, 0])


def test_points_and_boxes() -> None:
    points = np.random.default_rng(2).uniform(-2, 22, (9, 2))
    for (x, y), found in zip(points, CUT.points(points)):
        np.testing.assert_allclose(found, [(20 - x) * 2 - 7, y * 3 - 5], atol=1e-12)
    (box,) = CUT.boxes(np.array([[4.0, 2.0, 15.0, 9.0]]))
    assert box.tolist() == [3.0, 1.0, 16.0, 16.0], "mirrored, enlarged, moved and clipped"
    (gone,) = CUT.boxes(np.array([[18.0, 0.0, 20.0, 9.0]]))
    assert gone[0] == gone[2] == 0.0


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / "a.png")
    instances = (
        Instance((2.0, 1.0, 18.0, 9.0), 3, polygons=[TRIANGLE]),
        Instance((17.0, 0.0, 20.0, 9.0), 1, polygons=[[17.0, 0, 20, 0, 20, 9, 17, 9]]),  # cut off
    )
    return Sample(str(tmp_path / "a.png"), "a", 10, 20, instances)


class _Cut(JitterSpec):
    def draw(self, *args: object) -> JitteredGeometry:
        return CUT


def test_what_is_cut_off_is_dropped_and_boxes_are_tight(sample: Sample) -> None:
    pytest.importorskip("shapely", reason="shapely, which cuts polygons, is not installed")
    spec = _Cut((1.0, 1.0), 16)
    plain = TrainMapper(spec, "RGB", None, 0)(sample, 0)
    assert plain["classes"].tolist() == [3] and plain["boxes"].tolist() == [[0, 0, 16, 16]]
    item = TrainMapper(spec, "RGB", "polygon", 0)(sample, 0)
    assert item["classes"].tolist() == [3] and item["image"].shape == (3, 16, 16)
    corners = np.concatenate(item["polygons"][0]).reshape(-1, 2)
    box = [*corners.min(axis=0), *corners.max(axis=0)]
    np.testing.assert_allclose(item["boxes"][0].numpy(), box, atol=1e-5)
    masks = TrainMapper(spec, "RGB", "bitmask", 0)(sample, 0)
    assert masks["bitmasks"].shape == (1, 16, 16)
    # Filled with one point per pixel, the cut triangle is the whole one where it is seen.
    moved = CUT.points(np.array(TRIANGLE)).tolist()
    inside = torch.tensor(
        [[_inside(x + 0.5, y + 0.5, moved) for x in range(16)] for y in range(16)]
    )
    assert (masks["bitmasks"][0] ^ inside).sum() <= 6, "only at the outline"
    rows, columns = torch.nonzero(masks["bitmasks"][0], as_tuple=True)
    tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert masks["boxes"].tolist() == [[float(side) for side in tight]]


def _inside(x: float, y: float, corners: list[list[float]]) -> bool:
    """Whether a point is on the same side of all edges of a triangle."""
    sides = []
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1]):
        sides.append((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0)
    return all(sides) or not any(sides)


def test_a_polygon_may_fall_into_parts() -> None:
    pytest.importorskip("shapely", reason="shapely, which cuts polygons, is not installed")
    window = JitteredGeometry(10, 10, 4, 10, False, 10, 10, left=0, top=3)  # rows 3 to 7
    u_shape = np.array([0.0, 0, 2, 0, 2, 8, 8, 8, 8, 0, 10, 0, 10, 10, 0, 10])
    parts = window.polygons([u_shape])
    boxes = sorted(
        [*part.reshape(-1, 2).min(axis=0), *part.reshape(-1, 2).max(axis=0)] for part in parts
    )
    assert boxes == [[0.0, 0.0, 2.0, 4.0], [8.0, 0.0, 10.0, 4.0]]
    assert all(len(part) == 8 for part in parts), "four corners, none twice"
    assert window.polygons([np.array([0.0, 0, 5, 0, 5, 2])]) == []


def test_without_shapely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shapely", None)
    monkeypatch.setitem(sys.modules, "shapely.geometry", None)
    with pytest.raises(InputError, match="cut with shapely, which is not .*pip install shapely"):
        import_shapely("masks are cut with")
