"""Small networks, views and comparisons for the tests of methods, in double precision."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pretrain.backbones.heads import build_predictor, build_projector

DIM = 5  # embedding


@pytest.fixture
def parts() -> Callable[..., list[nn.Module]]:
    """parts(projector's style[, predictor's style]): trunk, projector[, predictor]."""

    def make(
        projector: str, predictor: str = "", dtype: torch.dtype = torch.float64
    ) -> list[nn.Module]:
        torch.manual_seed(0)
        trunk = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        modules = [trunk, build_projector(6, hidden_dim=7, out_dim=DIM, layers=2, style=projector)]
        if predictor:
            modules.append(build_predictor(DIM, hidden_dim=4, style=predictor))
        return [module.to(dtype) for module in modules]

    return make


@pytest.fixture
def views() -> Callable[..., list[Tensor]]:
    """views(number): that many views of 6 images."""

    def draw(
        number: int,
        images: int = 6,
        side: int = 8,
        seed: int = 1,
        dtype: torch.dtype = torch.float64,
    ) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return list(torch.randn(number, images, 3, side, side, generator=generator, dtype=dtype))

    return draw


@pytest.fixture
def moved() -> Callable[[nn.Module], None]:
    """moved(network): changes its parameters at random, so that it differs from a copy."""

    def move(network: nn.Module) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in network.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(0.2 * noise)

    return move


@pytest.fixture
def same_step() -> Callable[..., None]:
    """same_step(method, call, slow): one step of `method` and of a copy, which must agree.

    call(method) and slow(copy of it) return losses; compared are they, the gradient of each
    parameter (also if there is none) and all buffers afterwards.
    """

    def check(
        method: nn.Module,
        call: Callable[[nn.Module], Tensor],
        slow: Callable[[nn.Module], Tensor],
        rtol: float = 1e-7,
        atol: float = 1e-9,
    ) -> None:
        reference = copy.deepcopy(method)
        loss, expected = call(method), slow(reference)
        torch.testing.assert_close(loss, expected, rtol=rtol, atol=atol)
        loss.backward()
        expected.backward()
        wanted = dict(reference.named_parameters())
        for name, parameter in method.named_parameters():
            ours, theirs = parameter.grad, wanted[name].grad
            assert (ours is None) == (theirs is None), f"{name}: a gradient in one of the two"
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)
        buffers = dict(reference.named_buffers())
        for name, buffer in method.named_buffers():
            torch.testing.assert_close(buffer, buffers[name], rtol=rtol, atol=atol)

    return check
