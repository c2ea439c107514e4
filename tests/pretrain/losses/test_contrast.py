"""MoCo's, MoCo v3's, SimSiam's and BYOL's losses against loops over rows and lightly's, and over
two processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretrain.common.distributed import all_reduce_mean
from pretrain.losses.similarity import (
    batch_contrast,
    negative_cosine,
    normalized_error,
    queue_contrast,
)
from tests.two_processes import run_in_two


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit(row: Tensor) -> Tensor:
    return row / row.square().sum().sqrt()


def slow_queue_contrast(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Equation 1 of MoCo: one positive, the queue's columns as negatives."""
    total = q.new_zeros(())
    for query, key in zip(q, k):
        positive = torch.exp(unit(query) @ unit(key) / temperature)
        negatives = [torch.exp(unit(query) @ old / temperature) for old in queue.T]
        total = total - torch.log(positive / (positive + sum(negatives)))
    return total / len(q)


def slow_batch_contrast(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE over the keys of the batch, times the authors' factor 2 * temperature."""
    total = q.new_zeros(())
    for i, query in enumerate(q):
        scores = [torch.exp(unit(query) @ unit(key) / temperature) for key in k]
        total = total - torch.log(scores[i] / sum(scores))
    return 2 * temperature * total / len(q)


def slow_negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    return -sum(unit(a) @ unit(b) for a, b in zip(p, z)) / len(p)


def slow_normalized_error(p: Tensor, z: Tensor) -> Tensor:
    return sum((unit(a) - unit(b)).square().sum() for a, b in zip(p, z)) / len(p)


QUEUE = draw(4, 6, seed=3) / draw(4, 6, seed=3).norm(dim=0)
CASES: dict[str, tuple[Callable, Callable]] = {
    "queue": (
        lambda q, k: queue_contrast(q, k, QUEUE, 0.2),
        lambda q, k: slow_queue_contrast(q, k, QUEUE, 0.2),
    ),
    "batch": (
        lambda q, k: batch_contrast(q, k, 0.3),
        lambda q, k: slow_batch_contrast(q, k, 0.3),
    ),
    "cosine": (negative_cosine, slow_negative_cosine),
    "error": (normalized_error, slow_normalized_error),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_match_the_loop(name: str) -> None:
    loss, slow = CASES[name]
    q, k = draw(5, 4).requires_grad_(), draw(5, 4, seed=1).requires_grad_()
    slow_q = q.detach().clone().requires_grad_()
    value, expected = loss(q, k), slow(slow_q, k.detach())
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(q.grad, slow_q.grad)
    assert k.grad is None, "the target gets no gradient"


def test_the_queue_gets_no_gradient() -> None:
    queue = QUEUE.clone().requires_grad_()
    queue_contrast(draw(5, 4).requires_grad_(), draw(5, 4, seed=1), queue, 0.2).backward()
    assert queue.grad is None


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_orthogonal_images_have_the_closed_form(temperature: float) -> None:
    # Positive at cosine 1, three others at 0.
    expected = math.log(math.exp(1 / temperature) + 3) - 1 / temperature
    eye = torch.eye(4, dtype=torch.float64)
    queued = queue_contrast(3 * eye[:1], 2 * eye[:1], eye[:, 1:], temperature)
    assert queued.item() == pytest.approx(expected)
    assert batch_contrast(3 * eye, 2 * eye, temperature).item() == pytest.approx(
        2 * temperature * expected
    )


def test_extremes_of_the_cosine_losses() -> None:
    p = draw(3, 5)
    for factor, cosine in ((4.0, 1.0), (-0.5, -1.0)):
        assert negative_cosine(p, factor * p).item() == pytest.approx(-cosine)
        assert normalized_error(p, factor * p).item() == pytest.approx(2 - 2 * cosine)
    z = draw(3, 5, seed=1)
    torch.testing.assert_close(normalized_error(p, z), 2 + 2 * negative_cosine(p, z))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        queue_contrast(draw(5, 4), draw(5, 4), QUEUE, temperature)
    with pytest.raises(ValueError, match="must be positive"):
        batch_contrast(draw(5, 4), draw(5, 4), temperature)


def test_match_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly (extra `test`) is not installed")
    q, k = draw(5, 4, dtype=torch.float32), draw(5, 4, seed=1, dtype=torch.float32)
    torch.testing.assert_close(
        negative_cosine(q, k), lightly.NegativeCosineSimilarity()(q, k), rtol=1e-6, atol=1e-6
    )
    theirs = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(6, 4))
    theirs.memory_bank.bank = QUEUE.T.float().clone()
    torch.testing.assert_close(
        queue_contrast(q, k, QUEUE.float(), 0.2), theirs(q, k), rtol=1e-6, atol=1e-6
    )


def step(model: nn.Module, images: Tensor, keys: Tensor) -> dict[str, Tensor]:
    """Mean loss over the processes and the gradients, of the losses of one process's rows."""
    results = {}
    for name, (loss, _) in CASES.items():
        model.zero_grad()
        value = loss(model(images), keys)
        value.backward()
        results[name] = all_reduce_mean(value)
        results[f"{name} gradient"] = torch.cat([p.grad.flatten() for p in model.parameters()])
    return results


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 4)).double()


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes: its half of the rows, through DDP."""
    ddp = nn.parallel.DistributedDataParallel(network())
    mine = slice(rank * 4, rank * 4 + 4)
    torch.save(step(ddp, draw(8, 7)[mine], draw(8, 4, seed=1)[mine]), f"{folder}/{rank}.pt")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_in_two(half_of_the_batch, tmp_path)
    whole = step(network(), draw(8, 7), draw(8, 4, seed=1))
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in whole.items():
            torch.testing.assert_close(theirs[name], value, msg=lambda m: f"{name}: {m}")
