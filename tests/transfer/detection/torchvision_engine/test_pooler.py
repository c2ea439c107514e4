"""RoI pooling: level assignment against the formula, pooled features against one map's RoIAlign."""

from __future__ import annotations

import math

import torch
from torchvision.ops import roi_align

from transfer.detection.torchvision_engine.pooler import (
    PoolerSpec,
    RoiPooler,
    _by_level,
    assign_levels,
)


def square(side: float) -> list[float]:
    return [3.0, 5.0, 3.0 + side, 5.0 + side]


def test_levels_by_size() -> None:
    sides = [1.0, 55.0, 56.0, 111.0, 112.0, 200.0, 224.0, 447.0, 448.0, 2000.0]
    boxes = torch.tensor([square(side) for side in sides] + [[0.0, 0.0, 0.0, 0.0]])
    expected = [min(max(math.floor(4 + math.log2(side / 224 + 1e-8)), 2), 5) - 2 for side in sides]
    assert assign_levels(boxes, 2, 5).tolist() == [*expected, 0]
    assert expected == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_every_box_is_pooled_from_its_map() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, 64 // 2**i, 64 // 2**i, generator=generator) for i in range(4)]
    boxes = [
        torch.tensor([square(20.0), square(230.0)]),
        torch.tensor([square(130.0), square(30.0), square(460.0)]),
    ]
    pooler = RoiPooler(PoolerSpec(resolution=7, sampling_ratio=0, aligned=True), (4, 8, 16, 32))
    found = pooler(maps, boxes)
    levels = [[0, 2], [1, 0, 3]]
    row = 0
    for image in range(2):
        for box, level in zip(boxes[image], levels[image]):
            feature = maps[level][image : image + 1]
            expected = roi_align(feature, [box[None]], 7, 1 / 2 ** (level + 2), 0, aligned=True)
            assert torch.equal(found[row], expected[0])
            row += 1


def test_one_map_and_no_boxes() -> None:
    feature = torch.randn(1, 3, 16, 16)
    pooler = RoiPooler(PoolerSpec(resolution=5, sampling_ratio=0, aligned=True), (8,))
    box = torch.tensor([square(500.0)])
    expected = roi_align(feature, [box], 5, 1 / 8, 0, aligned=True)
    assert torch.equal(pooler([feature], [box]), expected)
    assert pooler([feature], [torch.zeros(0, 4)]).shape == (0, 3, 5, 5)
    pooler = RoiPooler(PoolerSpec(resolution=5, sampling_ratio=0, aligned=True), (4, 8))
    assert pooler([feature, feature], [torch.zeros(0, 4)]).shape == (0, 3, 5, 5)


def test_rows_of_all_maps_at_once_are_those_of_each_map() -> None:
    levels = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(0))
    found = _by_level(levels, 4)
    assert len(found) == 4 and not len(found[3])
    for level, rows in enumerate(found):
        assert torch.equal(rows, torch.nonzero(levels == level).squeeze(1))
