"""NT-Xent against a loop over images and rows, lightly's, and the same batch split over two
processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretrain.backbones.heads import build_projector
from pretrain.common.distributed import all_reduce_mean
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.losses.similarity import nt_xent, nt_xent_pairs
from tests.two_processes import run_in_two


def slow_nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper, one row at a time."""
    rows = [row / row.norm() for row in torch.cat([z1, z2])]
    count = len(z1)
    total = torch.zeros((), dtype=z1.dtype)
    for i, row in enumerate(rows):
        positive = (i + count) % (2 * count)
        others = [torch.exp(row @ other / temperature) for k, other in enumerate(rows) if k != i]
        total = total - torch.log(torch.exp(row @ rows[positive] / temperature) / sum(others))
    return total / (2 * count)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_values_and_gradients_match_the_loop(temperature: float) -> None:
    ours = draw(2, 5, 4).requires_grad_()
    slow = draw(2, 5, 4).requires_grad_()
    loss, expected = nt_xent(*ours, temperature), slow_nt_xent(*slow, temperature)
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss, ours)
    (grad_expected,) = torch.autograd.grad(expected, slow)
    torch.testing.assert_close(grad, grad_expected)


def test_orthogonal_images_have_the_closed_form() -> None:
    # Both views equal, images orthogonal: one positive at similarity 1, 2N - 2 negatives at 0.
    loss = nt_xent(torch.eye(3), torch.eye(3), 0.5)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 4) - 2, rel=1e-6)


def test_pairs_are_the_mean_of_pairs_alone() -> None:
    z = draw(4, 3, 5)
    pairs = [(0, 1), (0, 3), (2, 1)]
    expected = torch.stack([slow_nt_xent(z[a], z[b], 0.2) for a, b in pairs]).mean()
    torch.testing.assert_close(nt_xent_pairs(z, pairs, 0.2), expected)


def test_computed_in_float32_under_autocast() -> None:
    z = draw(2, 6, 8, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z[0].bfloat16().float(), z[1].bfloat16().float(), 0.1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nt_xent(*z.bfloat16().float(), 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "shape, pairs, temperature",
    [
        ((3, 4), [(0, 1)], 0.1),
        ((2, 3, 4), [(0, 2)], 0.1),
        ((2, 3, 4), [], 0.1),
        ((2, 3, 4), [(0, 1)], 0),
    ],
)
def test_bad_arguments_are_refused(shape: tuple, pairs: list, temperature: float) -> None:
    with pytest.raises(ValueError):
        nt_xent_pairs(draw(*shape), pairs, temperature)


def test_matches_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly (extra `peers`) is not installed")
    z = draw(2, 7, 6, dtype=torch.float32)
    expected = lightly.NTXentLoss(temperature=0.2)(z[0], z[1])
    torch.testing.assert_close(nt_xent(z[0], z[1], 0.2), expected, rtol=1e-5, atol=1e-6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    return nn.Sequential(body, build_projector(36, hidden_dim=6, out_dim=5))


def step(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient vector of one joint pass over views (3, N, 3, 5, 5)."""
    z = model(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    loss = nt_xent_pairs(z, [(0, 1), (0, 2)], 0.2)
    loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return all_reduce_mean(loss), torch.cat(grads)


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes: its half of the images, through our SyncBN and DDP."""
    model = convert_sync_batchnorm(network(), torch.device("cpu"))
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    images = draw(3, 8, 3, 5, 5, dtype=torch.float32)[:, rank * 4 : rank * 4 + 4]
    loss, grads = step(ddp, images)
    torch.save({"loss": loss, "grads": grads, "bn": model[0][1].running_var}, f"{folder}/{rank}.pt")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_in_two(half_of_the_batch, tmp_path)
    model = network()
    loss, grads = step(model, draw(3, 8, 3, 5, 5, dtype=torch.float32))
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(theirs["loss"], loss.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(theirs["grads"], grads, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs["bn"], model[0][1].running_var, rtol=1e-5, atol=1e-6)
