"""Losses of boxes: values against plain arithmetic on one box at a time, gradients against
differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.box_losses import (
    OVERLAP_LOSSES,
    SMOOTH_L1,
    BoxLoss,
    smooth_l1,
)


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30
    sides = 1 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30
    return torch.cat([corners, corners + sides], dim=1)


def slow_overlap_loss(kind: str, box: list[float], truth: list[float]) -> float:
    """The loss of one box, from the papers' equations, without a small number in a quotient."""
    width = min(box[2], truth[2]) - max(box[0], truth[0])
    height = min(box[3], truth[3]) - max(box[1], truth[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, truth)]
    union = sum(areas) - both
    outer_w = max(box[2], truth[2]) - min(box[0], truth[0])
    outer_h = max(box[3], truth[3]) - min(box[1], truth[1])
    if kind == "giou":
        return 1 - both / union + (outer_w * outer_h - union) / (outer_w * outer_h)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (box, truth)]
    loss = 1 - both / union + math.dist(*centres) ** 2 / (outer_w**2 + outer_h**2)
    if kind == "ciou":
        angles = [math.atan((b[2] - b[0]) / (b[3] - b[1])) for b in (box, truth)]
        odd = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
        loss += odd * odd / (1 - both / union + odd)
    return loss


@pytest.mark.parametrize("kind", OVERLAP_LOSSES)
def test_overlap_losses_against_the_equations(kind: str) -> None:
    boxes, truth = random_boxes(40, 1), random_boxes(40, 2)
    found = OVERLAP_LOSSES[kind](boxes, truth)
    for value, box, wanted in zip(found.tolist(), boxes.tolist(), truth.tolist()):
        assert value == pytest.approx(slow_overlap_loss(kind, box, wanted), abs=1e-6)
    torch.testing.assert_close(OVERLAP_LOSSES[kind](truth, truth), torch.zeros(40).double())


@pytest.mark.parametrize("kind", ["giou", "diou"])  # of CIoU a factor has no gradient by design
def test_gradients_against_differences(kind: str) -> None:
    boxes, truth = random_boxes(6, 3).requires_grad_(), random_boxes(6, 4)
    assert torch.autograd.gradcheck(lambda b: OVERLAP_LOSSES[kind](b, truth), (boxes,))


@pytest.mark.parametrize("beta", [0.0, 0.1111, 1.0])
def test_smooth_l1(beta: float) -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)
    wanted = [
        0.5 * value**2 / beta if abs(value) < beta else abs(value) - 0.5 * beta
        for value in x.tolist()
    ]
    torch.testing.assert_close(smooth_l1(x, beta), torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("kind", [SMOOTH_L1, *OVERLAP_LOSSES])
def test_exact_deltas_have_no_loss_and_rows_choose_the_sources(kind: str) -> None:
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    loss = BoxLoss(kind, 0.5, coder)
    sources, rows = random_boxes(9, 5).float(), torch.tensor([7, 0, 3])
    truth = random_boxes(3, 6).float()
    exact = coder.encode(sources[rows], truth)
    targets = loss.targets(sources[rows], truth)
    assert loss(exact, targets, sources, rows).item() == pytest.approx(0.0, abs=1e-4)
    assert loss(exact + 1.0, targets, sources, rows).item() > 0.1
    nothing = torch.zeros(0, 4, requires_grad=True)
    empty = loss(nothing, targets[:0], sources, rows[:0])
    empty.backward()
    assert empty.item() == 0.0
