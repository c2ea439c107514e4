"""Back to the original image: boxes against arithmetic, masks against a loop over pixels."""

from __future__ import annotations

import math

import torch

from transfer.detection.torchvision_engine.postprocess import paste_masks, postprocess
from transfer.detection.torchvision_engine.structures import Detections


def slow_paste(mask: torch.Tensor, box: list[float], size: tuple[int, int]) -> torch.Tensor:
    """Bilinear value of the mask at every pixel's centre; mask pixels have centres at +0.5."""
    side = mask.shape[0]

    def value(row: int, column: int) -> float:
        inside = 0 <= row < side and 0 <= column < side
        return mask[row, column].item() if inside else 0.0

    pasted = torch.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * side - 0.5
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * side - 0.5
            left, top = math.floor(u), math.floor(v)
            for row, weight_v in ((top, 1 - (v - top)), (top + 1, v - top)):
                for column, weight_u in ((left, 1 - (u - left)), (left + 1, u - left)):
                    pasted[y, x] += weight_u * weight_v * value(row, column)
    return pasted


def test_paste_against_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 4, 4, generator=generator)
    boxes = [[3.3, 2.2, 15.9, 11.4], [0.0, 0.0, 20.0, 16.0], [7.1, 5.0, 7.9, 9.5]]
    found = paste_masks(masks, torch.tensor(boxes), (16, 20))
    assert found.dtype == torch.bool and found.shape == (3, 16, 20)
    for index, box in enumerate(boxes):
        expected = slow_paste(masks[index], box, (16, 20))
        clear = (expected - 0.5).abs() > 1e-5
        assert torch.equal(found[index][clear], (expected >= 0.5)[clear])


def test_boxes_are_scaled_clipped_and_empty_ones_dropped() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 40], [90, 10, 100, 30], [99.9999, 0, 100, 40]])
    found = postprocess(
        Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([2, 1, 0])),
        (50, 100),
        (100, 50),
    )
    assert found.boxes[:2].tolist() == [[5, 40, 15, 80], [45, 20, 50, 60]]
    empty = postprocess(
        Detections(torch.tensor([[7.0, 7.0, 7.0, 9.0]]), torch.ones(1), torch.zeros(1)),
        (50, 100),
        (100, 50),
    )
    assert len(empty) == 0


def test_no_detections() -> None:
    nothing = Detections(
        torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 14, 14)
    )
    found = postprocess(nothing, (20, 20), (30, 40))
    assert len(found) == 0 and found.masks.shape == (0, 30, 40)
