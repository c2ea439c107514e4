"""The keypoint head: cells and places against slow loops; the loss by hand; boxes that are left."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.errors import InputError
from tests.transfer.detection import specs
from transfer.detection.torchvision_engine.keypoint_head import (
    KeypointHead,
    KeypointHeadSpec,
    cells_of,
    read_maps,
)
from transfer.detection.torchvision_engine.pooler import PoolerSpec
from transfer.detection.torchvision_engine.structures import RoiSample, Targets

POOLER = PoolerSpec(resolution=7, sampling_ratio=0, aligned=True)


def head(divisor: float | None = None, weight: float = 1.0) -> KeypointHead:
    torch.manual_seed(0)
    spec = KeypointHeadSpec(
        pooler=POOLER, conv_dims=(6, 5), num_keypoints=3, loss_weight=weight, divisor=divisor
    )
    return KeypointHead(spec, channels=4)


def sample_of(boxes: list[list[float]], keypoints: Tensor) -> RoiSample:
    """Boxes of which each holds the object of the same row."""
    count = len(boxes)
    tensor = torch.tensor(boxes).reshape(-1, 4)
    classes, rows = torch.zeros(count, dtype=torch.long), torch.arange(count)
    targets = Targets(tensor, classes, None, keypoints)
    return RoiSample(tensor, classes, tensor, rows, targets, count)


def test_cells_by_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 20, (40, 2), generator=generator).float()
    boxes = torch.cat([low, low + torch.randint(1, 30, (40, 2), generator=generator)], dim=1)
    keypoints = torch.randint(-5, 60, (40, 4, 3), generator=generator).float()
    keypoints[:, 0, :2] = boxes[:, 2:]  # the last corner
    keypoints[..., 2] = torch.randint(0, 3, (40, 4), generator=generator)
    cells, valid = cells_of(keypoints, boxes, 8)
    for row in range(40):
        x1, y1, x2, y2 = boxes[row].tolist()
        for k in range(4):
            x, y, visibility = keypoints[row, k].tolist()
            inside = x1 <= x <= x2 and y1 <= y <= y2 and visibility > 0
            assert bool(valid[row, k]) == inside
            if inside:
                column = min(math.floor((x - x1) * (8 / (x2 - x1)) + 1e-6), 7)
                line = min(math.floor((y - y1) * (8 / (y2 - y1)) + 1e-6), 7)
                assert int(cells[row, k]) == 8 * line + column
            else:
                assert int(cells[row, k]) == 0
    assert 20 < valid.sum() < 140


def test_places_by_a_loop() -> None:
    torch.manual_seed(1)
    logits = torch.randn(3, 2, 8, 8)
    boxes = torch.tensor([[3.0, 4.0, 13.5, 9.2], [0.0, 0.0, 0.3, 20.0], [5.0, 5.0, 45.0, 30.0]])
    found = read_maps(logits, boxes)
    for row in range(3):
        sides = [max(float(boxes[row, i + 2] - boxes[row, i]), 1.0) for i in (0, 1)]
        wide, high = (math.ceil(side) for side in sides)
        for k in range(2):
            whole = F.interpolate(logits[row, k][None, None], (high, wide), mode="bicubic")[0, 0]
            place = int(whole.argmax())
            x = (place % wide + 0.5) * sides[0] / wide + float(boxes[row, 0])
            y = (place // wide + 0.5) * sides[1] / high + float(boxes[row, 1])
            shares = (logits[row, k] - whole.max()).exp().sum()
            assert found[row, k].tolist() == pytest.approx([x, y, 1 / float(shares)], rel=1e-5)
    assert read_maps(logits[:0], boxes[:0]).shape == (0, 2, 3)


def test_what_is_written_into_cells_is_read_there() -> None:
    """A keypoint comes back within half a cell."""
    boxes = torch.tensor([[10.0, 20.0, 66.0, 48.0]])
    keypoints = torch.tensor([[[31.3, 25.2, 2.0], [12.0, 47.0, 1.0]]])
    cells, valid = cells_of(keypoints, boxes, 28)
    assert valid.all()
    maps = F.one_hot(cells, 28 * 28).float().reshape(1, 2, 28, 28) * 20
    found = read_maps(maps, boxes)
    cell = torch.tensor([56 / 28, 28 / 28])
    assert ((found[..., :2] - keypoints[..., :2]).abs() <= cell).all()


def test_loss_by_hand() -> None:
    torch.manual_seed(2)
    keypoints = torch.tensor(
        [[[5.0, 5.0, 2], [9.0, 3.0, 1], [50.0, 5.0, 2]], [[1.0, 1.0, 0], [2.0, 7.0, 2], [0, 0, 0]]]
    )
    samples = [sample_of([[0, 0, 10, 10], [0, 0, 8, 8]], keypoints)]
    logits = torch.randn(2, 3, 4, 4)
    wanted = [(0, 0, 4 * 2 + 2), (0, 1, 4 * 1 + 3), (1, 1, 4 * 3 + 1)]
    shares = logits.flatten(2).log_softmax(2)
    total = -sum(float(shares[r, k, cell]) for r, k, cell in wanted)
    assert float(head().loss(logits, samples)) == pytest.approx(total / 3, rel=1e-5)
    divided = head(divisor=12.0, weight=4.0).loss(logits, [*samples, sample_of([], keypoints[:0])])
    assert float(divided) == pytest.approx(total / (2 * 12) * 4, rel=1e-5)


def test_nothing_labelled_is_a_loss_of_zero_with_gradients() -> None:
    network = head()
    for boxes in ([], [[0, 0, 4, 4]]):
        samples = [sample_of(boxes, torch.zeros(len(boxes), 3, 3))]
        loss = network.loss(network(torch.zeros(len(boxes), 4, 7, 7)), samples)
        loss.backward()
        assert loss.detach() == 0
        assert all(parameter.grad is not None for parameter in network.parameters())
    assert network(torch.zeros(2, 4, 7, 7)).shape == (2, 3, 28, 28)


def test_only_boxes_with_a_labelled_keypoint_are_trained_on() -> None:
    keypoints = torch.tensor([[[5.0, 5, 2]], [[5.0, 5, 0]], [[50.0, 5, 2]], [[10.0, 10, 1]]])
    samples = [sample_of([[0.0, 0, 10, 10]] * 4, keypoints), sample_of([], keypoints[:0])]
    first, second = head().visible(samples)
    assert first.gt_index.tolist() == [0, 3] and first.positives == 2 and len(second.boxes) == 0


def test_values_that_make_no_head() -> None:
    keys = {**specs.FPN, "MODEL.KEYPOINT_ON": True, "MODEL.ROI_BOX_HEAD.NUM_FC": 1}
    for change, message in (
        ({"LOSS_WEIGHT": -1.0}, "LOSS_WEIGHT must be 0 or above"),
        ({"CONV_DIMS": (8, 0)}, "CONV_DIMS .* each 1 or above"),
        ({"POOLER_TYPE": "ROIPool"}, "POOLER_TYPE 'ROIPool' .*ROI_KEYPOINT_HEAD"),
    ):
        changed = {f"MODEL.ROI_KEYPOINT_HEAD.{key}": value for key, value in change.items()}
        with pytest.raises(InputError, match=message):
            specs.make_spec({**keys, **changed})
