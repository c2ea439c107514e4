"""Anchors against loops over cells, sizes and ratios."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.anchors import AnchorGenerator, AnchorSpec, cell_anchors


def slow_anchors(height: int, width: int, stride: int, sizes, ratios, offset: float) -> list:
    boxes = []
    for row in range(height):
        for column in range(width):
            for size in sizes:
                for ratio in ratios:
                    x, y = (column + offset) * stride, (row + offset) * stride
                    w = math.sqrt(size * size / ratio)
                    h = w * ratio
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return boxes


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_anchors_of_two_maps(offset: float) -> None:
    ratios = (0.5, 1.0, 2.0)
    spec = AnchorSpec(sizes=((32,), (64,)), aspect_ratios=(ratios,), offset=offset)
    generator = AnchorGenerator(spec, (8, 16))
    maps = [torch.zeros(2, 4, 3, 5), torch.zeros(2, 4, 2, 3)]
    first, second = generator(maps)
    expected = torch.tensor(slow_anchors(3, 5, 8, (32,), ratios, offset))
    torch.testing.assert_close(first, expected)
    expected = torch.tensor(slow_anchors(2, 3, 16, (64,), ratios, offset))
    torch.testing.assert_close(second, expected)
    assert generator.num_anchors == 3
    assert not generator.state_dict()


def test_cell_anchors_are_size_major_and_unrounded() -> None:
    boxes = cell_anchors((32, 64), (0.5, 1.0))
    assert boxes.shape == (4, 4)
    assert boxes[1].tolist() == [-16, -16, 16, 16]
    assert boxes[0, 2].item() == pytest.approx(math.sqrt(2 * 32 * 32) / 2)
    assert boxes[3].tolist() == [-32, -32, 32, 32]


def test_rows_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(InputError, match="SIZES has 2 rows for 3"):
        AnchorSpec(sizes=((32,), (64,)), aspect_ratios=((1.0,),), offset=0.0).rows(3)
    with pytest.raises(InputError, match="same number"):
        AnchorSpec(sizes=((32,), (64, 96)), aspect_ratios=((1.0,),), offset=0.0).rows(2)
