"""Box coder: known values, encoding and decoding, the clamp."""

from __future__ import annotations

import math

import pytest
import torch

from transfer.detection.torchvision_engine.box_coding import BoxCoder

# The last tell the axes apart, which the two in use do not.
WEIGHTS = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0), (2.0, 3.0, 4.0, 5.0)]


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * 100
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * 50], 1)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_round_trip(weights: tuple[float, ...]) -> None:
    sources, targets = random_boxes(20, 0), random_boxes(20, 1)
    coder = BoxCoder(weights)
    decoded = coder.decode(coder.encode(sources, targets), sources)
    torch.testing.assert_close(decoded, targets, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_encode_against_the_formula(weights: tuple[float, ...]) -> None:
    sources, targets = random_boxes(5, 2), random_boxes(5, 3)
    expected = []
    for (a, b, c, d), (e, f, g, h) in zip(sources.tolist(), targets.tolist()):
        row = [
            ((e + g) / 2 - (a + c) / 2) / (c - a),
            ((f + h) / 2 - (b + d) / 2) / (d - b),
            math.log((g - e) / (c - a)),
            math.log((h - f) / (d - b)),
        ]
        expected.append([weight * value for weight, value in zip(weights, row)])
    found = BoxCoder(weights).encode(sources, targets)
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_decode_of_several_classes_is_decode_of_each() -> None:
    coder, boxes = BoxCoder(WEIGHTS[1]), random_boxes(6, 4)
    deltas = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    parts = [coder.decode(deltas[:, 4 * k : 4 * k + 4], boxes) for k in range(3)]
    assert torch.equal(coder.decode(deltas, boxes), torch.cat(parts, 1))


def test_growth_is_clamped_and_shrinking_is_not() -> None:
    box = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    coder = BoxCoder(WEIGHTS[0])
    grown = coder.decode(torch.tensor([[0.0, 0.0, 50.0, 50.0]]), box)
    assert (grown[0, 2] - grown[0, 0]).item() == pytest.approx(1000, rel=1e-5)
    shrunk = coder.decode(torch.tensor([[0.0, 0.0, -50.0, -50.0]]), box)
    assert (shrunk[0, 2] - shrunk[0, 0]).item() == 0.0
