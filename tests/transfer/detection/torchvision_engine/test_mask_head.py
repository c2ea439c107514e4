"""Mask head: shapes, loss against a loop, chosen class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from transfer.detection.torchvision_engine.mask_head import (
    MaskHead,
    MaskHeadSpec,
    mask_loss,
    mask_probabilities,
)
from transfer.detection.torchvision_engine.mask_targets import Polygons
from transfer.detection.torchvision_engine.structures import RoiSample, Targets

K = 3


def make_sample(classes: list[int]) -> RoiSample:
    count = len(classes)
    boxes = torch.tensor([[2.0, 3.0, 20.0, 25.0]]).repeat(count, 1)
    polygon = np.array([2.0, 3.0, 20.0, 3.0, 12.0, 25.0])
    targets = Targets(boxes[:1], torch.tensor([0]), Polygons([[polygon]]))
    index = torch.zeros(count, dtype=torch.int64)
    labels = torch.tensor(classes, dtype=torch.int64)
    return RoiSample(boxes, labels, boxes, index, targets, count)


@pytest.mark.parametrize("num_conv", [0, 2])
def test_output_is_twice_the_input(num_conv: int) -> None:
    spec = MaskHeadSpec(num_conv=num_conv, conv_dim=6, norm="", class_agnostic=False)
    head = MaskHead(spec, channels=5, num_classes=K)
    assert head(torch.randn(2, 5, 7, 7)).shape == (2, K, 14, 14)
    names = {name.split(".")[0] for name, _ in head.named_parameters()}
    assert names == {"deconv", "predictor", *(f"mask_fcn{i + 1}" for i in range(num_conv))}


def test_loss_against_a_loop() -> None:
    samples = [make_sample([1, 0]), make_sample([]), make_sample([2])]
    logits = torch.randn(3, K, 6, 6, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for row, label in enumerate([1, 0, 2]):
        target = samples[0].targets.masks.crop(torch.tensor([0]), samples[0].boxes[:1], 6)[0]
        assert 0 < target.sum() < 36
        for y in range(6):
            for x in range(6):
                value = torch.sigmoid(logits[row, label, y, x].double())
                total -= torch.log(value if target[y, x] else 1 - value).item()
    assert mask_loss(logits, samples).item() == pytest.approx(total / (3 * 36), rel=1e-5)


def test_loss_of_nothing_is_zero_with_a_gradient() -> None:
    head = MaskHead(
        MaskHeadSpec(num_conv=1, conv_dim=6, norm="", class_agnostic=False),
        channels=5,
        num_classes=K,
    )
    loss = mask_loss(head(torch.zeros(0, 5, 7, 7)), [make_sample([])])
    loss.backward()
    assert loss.item() == 0.0
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_probabilities_are_of_the_predicted_class() -> None:
    logits = torch.randn(2, K, 4, 4)
    found = mask_probabilities(logits, torch.tensor([2, 0]))
    # Not bit for bit: a vectorised sigmoid rounds by an element's place in memory.
    torch.testing.assert_close(found[0], F.sigmoid(logits[0, 2]), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found[1], F.sigmoid(logits[1, 0]), rtol=1e-6, atol=1e-7)
