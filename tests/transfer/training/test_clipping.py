"""Clipped gradients against plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from transfer.training.clipping import Clipping


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_each_gradient_is_clipped_by_itself(kind: str) -> None:
    model = nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Clipping(kind, 0.5, 2.0).add_to(optimizer)
    gradients = [torch.tensor([[3.0, 0.0, -4.0], [0.0, 0.1, 0.0]]), torch.tensor([0.1, 0.2])]
    for parameter, gradient in zip(model.parameters(), gradients):
        parameter.grad = gradient.clone()
    optimizer.step()
    wanted = [gradient.clamp(-0.5, 0.5) for gradient in gradients]
    if kind == "norm":
        wanted[0] = gradients[0] * 0.5 / gradients[0].norm()
    for parameter, old, step in zip(model.parameters(), before, wanted):
        torch.testing.assert_close(old - parameter.detach(), step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["value", "norm"])
def test_a_parameter_without_a_gradient_is_left_alone(kind: str) -> None:
    model = nn.Linear(3, 2)
    before = model.bias.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    Clipping(kind, 0.5, 2.0).add_to(optimizer)
    model.weight.grad = torch.ones(2, 3)
    optimizer.step()
    assert torch.equal(model.bias, before)


def test_under_mixed_precision_unscaled_gradients_are_clipped() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    Clipping("value", 0.5, 2.0).add_to(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((parameter * torch.tensor([0.25, -0.25, 2.0, -2.0])).sum()).backward()
    scaler.step(optimizer)
    assert parameter.tolist() == [-0.25, 0.25, -0.5, 0.5]
