"""Mask targets: rectangles with an obvious answer, and pycocotools on a polygon moved by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.mask_targets import BitMasks, Polygons, rasterise


def rectangle(x1: float, y1: float, x2: float, y2: float) -> np.ndarray:
    return np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=np.float64)


def test_left_half_of_a_box() -> None:
    polygons = Polygons([[rectangle(10, 10, 20, 50)]])
    box = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    mask = polygons.crop(torch.tensor([0]), box, 8)[0]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:, :4] = True
    assert torch.equal(mask, expected)


def test_parts_are_united_and_boxes_choose_objects() -> None:
    left, right = rectangle(0, 0, 2, 8), rectangle(6, 0, 8, 8)
    polygons = Polygons([[rectangle(0, 0, 8, 4)], [left, right]])
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(3, 1)
    masks = polygons.crop(torch.tensor([1, 0, 1]), boxes, 8)
    columns = torch.tensor([1, 1, 0, 0, 0, 0, 1, 1], dtype=torch.bool)
    assert torch.equal(masks[0], columns.expand(8, 8))
    assert torch.equal(masks[1], columns.new_tensor([1] * 4 + [0] * 4)[:, None].expand(8, 8))
    assert torch.equal(masks[2], masks[0])


def test_against_pycocotools_with_unequal_zoom() -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        polygon = random.uniform(5, 60, 12)
        box = np.sort(random.uniform(0, 60, (2, 2)), axis=0).reshape(-1).astype(np.float32)
        moved = []
        for x, y in polygon.reshape(-1, 2):
            moved += [
                (x - box[0]) * (14 / max(box[2] - box[0], 0.1)),
                (y - box[1]) * (14 / max(box[3] - box[1], 0.1)),
            ]
        expected = coco_mask.decode(coco_mask.frPyObjects([moved], 14, 14))[:, :, 0]
        assert np.array_equal(rasterise([polygon], box, 14), expected.astype(bool))


def test_polygons_stay_as_they_were_and_flat_boxes_do_not_divide_by_zero() -> None:
    polygon = rectangle(1, 1, 9, 9)
    mask = rasterise([polygon], np.array([4, 4, 4, 8], dtype=np.float32), 7)
    assert mask.shape == (7, 7)
    assert np.array_equal(polygon, rectangle(1, 1, 9, 9))
    assert not rasterise([], np.array([0, 0, 4, 4], dtype=np.float32), 7).any()


def test_bitmaps_agree_with_polygons_on_whole_pixels() -> None:
    bitmap = torch.zeros(1, 40, 40, dtype=torch.bool)
    bitmap[0, 10:30, 4:12] = True
    boxes = torch.tensor([[4.0, 10.0, 20.0, 30.0]])
    index = torch.tensor([0])
    expected = Polygons([[rectangle(4, 10, 12, 30)]]).crop(index, boxes, 8)
    assert torch.equal(BitMasks(bitmap).crop(index, boxes, 8), expected)


def test_no_boxes_and_rle() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert Polygons([]).crop(none, torch.zeros(0, 4), 14).shape == (0, 14, 14)
    with pytest.raises(InputError, match="MASK_FORMAT bitmask"):
        Polygons([{"size": [4, 4], "counts": "x"}])
