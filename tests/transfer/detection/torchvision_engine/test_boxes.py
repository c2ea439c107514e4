"""Box functions against loops over pairs."""

from __future__ import annotations

import torch

from transfer.detection.torchvision_engine.boxes import area, clip, nonempty, pairwise_iou


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 40], 1)


def slow_iou(first: list[float], second: list[float]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return width * height / (sum(areas) - width * height)


def test_pairwise_iou() -> None:
    first, second = random_boxes(7, 0), random_boxes(9, 1)
    expected = [[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(pairwise_iou(first, second), torch.tensor(expected))


def test_iou_of_empty_boxes_is_zero_and_not_nan() -> None:
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert pairwise_iou(point, point).item() == 0.0
    assert pairwise_iou(torch.zeros(0, 4), point).shape == (0, 1)


def test_clip_and_nonempty() -> None:
    boxes = torch.tensor([[-5.0, -1, 3, 90], [70, 10, 90, 20], [1, 2, 1, 9]])
    clipped = clip(boxes, (50, 60))
    assert clipped.tolist() == [[0, 0, 3, 50], [60, 10, 60, 20], [1, 2, 1, 9]]
    assert nonempty(clipped).tolist() == [True, False, False]
    assert area(clipped).tolist() == [150, 0, 0]
