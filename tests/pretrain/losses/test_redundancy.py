"""VICReg's and Barlow Twins' terms against loops over dimensions and images, lightly's, and over
two processes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.backbones.heads import build_projector
from pretrain.common.distributed import all_reduce_mean
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from pretrain.losses import redundancy
from pretrain.losses.redundancy import (
    barlow_pairs,
    batch_normalized,
    invariance,
    off_diagonal,
    own_dimensions,
    variance_and_covariance,
)
from tests.two_processes import run_in_two

PAIRS = [(0, 1), (0, 2)]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def embeddings(views: int, images: int = 6, dim: int = 5) -> Tensor:
    """Views whose dimensions have standard deviations on both sides of 1, and correlate."""
    mixed = draw(views, images, dim) @ draw(dim, dim, seed=1)
    scale = torch.tensor([0.1, 0.3, 1.0, 2.0, 3.0], dtype=torch.float64)[:dim]
    return mixed * scale + draw(views, 1, dim, seed=2)


def covariance(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased covariance of two columns (N,)."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b)) / (len(a) - 1)


def slow_variance(view: Tensor) -> Tensor:
    """VICReg's equations 1 and 2, one dimension at a time."""
    hinges = []
    for column in view.T:
        deviation = torch.sqrt(covariance(column, column) + 1e-4)
        hinges.append(1 - deviation if deviation < 1 else 0 * deviation)
    return sum(hinges) / len(hinges)


def slow_covariance(view: Tensor) -> Tensor:
    """VICReg's equations 3 and 4, one pair of dimensions at a time."""
    columns = view.T
    pairs = [(i, j) for i in range(len(columns)) for j in range(len(columns)) if i != j]
    squares = [covariance(columns[i], columns[j]) ** 2 for i, j in pairs]
    return sum(squares, 0 * view.sum()) / len(columns)  # one dimension has no pairs


def slow_invariance(a: Tensor, b: Tensor) -> Tensor:
    differences = [(x - y) ** 2 for row, other in zip(a, b) for x, y in zip(row, other)]
    return sum(differences) / len(differences)


def slow_barlow(a: Tensor, b: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Barlow Twins' equations 1 and 2, with the batch norm of the authors' code."""

    def whitened(column: Tensor) -> list[Tensor]:
        mean = sum(column) / len(column)
        variance = sum((x - mean) ** 2 for x in column) / len(column)
        return [(x - mean) / torch.sqrt(variance + 1e-5) for x in column]

    first, second = [whitened(c) for c in a.T], [whitened(c) for c in b.T]
    on = off = a.new_zeros(())
    for i, column in enumerate(first):
        for j, other in enumerate(second):
            correlation = sum(x * y for x, y in zip(column, other)) / len(a)
            if i == j:
                on = on + (1 - correlation) ** 2
            else:
                off = off + correlation**2
    return on, weight * off


def check(fast: Callable[[Tensor], Tensor], slow: Callable[[Tensor], Tensor], z: Tensor) -> None:
    """Equal values and gradients."""
    ours, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    value, expected = fast(ours), slow(theirs)
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_invariance_is_the_mean_over_pairs() -> None:
    check(
        lambda z: invariance(z, PAIRS),
        lambda z: sum(slow_invariance(z[a], z[b]) for a, b in PAIRS) / 2,
        embeddings(3),
    )


@pytest.mark.parametrize("views", [2, 3])
def test_variance_and_covariance_count_each_view_once(views: int) -> None:
    z = embeddings(views)
    values = [slow_variance(view) for view in z]
    assert 0 < min(values) and z.std(dim=1).max() > 1, "hinges on both sides"
    check(
        lambda z: variance_and_covariance(z)[0],
        lambda z: sum(slow_variance(view) for view in z) / views,
        z,
    )
    # Two views: the sum of both, as the authors' code; more: as large as that of two.
    check(
        lambda z: variance_and_covariance(z)[1],
        lambda z: sum(slow_covariance(view) for view in z) * 2 / views,
        z,
    )


def test_barlow_is_the_mean_over_pairs() -> None:
    for place, term in enumerate(("on_diagonal", "off_diagonal")):
        check(
            lambda z: barlow_pairs(z, PAIRS, 0.3)[term],
            lambda z: sum(slow_barlow(z[a], z[b], 0.3)[place] for a, b in PAIRS) / 2,
            embeddings(3, images=5, dim=4),
        )


def test_constant_dimensions_have_finite_gradients() -> None:
    z = torch.full((2, 4, 3), 0.7, dtype=torch.float64, requires_grad=True)
    variance, covariance_term = variance_and_covariance(z)
    barlow = barlow_pairs(z, [(0, 1)], 1.0)
    (variance + covariance_term + sum(barlow.values())).backward()
    assert variance.item() == pytest.approx(1 - 0.01)
    assert barlow["on_diagonal"].item() == pytest.approx(3.0)
    assert z.grad.isfinite().all()


def test_batch_norm_and_off_diagonal() -> None:
    rows = draw(6, 4)
    expected = nn.BatchNorm1d(4, affine=False, dtype=torch.float64)(rows)
    torch.testing.assert_close(batch_normalized(rows), expected)
    square = torch.arange(16).view(4, 4)
    assert off_diagonal(square).tolist() == [
        int(square[i, j]) for i in range(4) for j in range(4) if i != j
    ]


@pytest.mark.parametrize("dim, processes", [(7, 1), (7, 2), (7, 3), (8, 4), (2, 3), (1, 2)])
def test_rows_are_shared_evenly(dim: int, processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row belongs to one process, and its rows leave out the diagonal of the whole matrix."""
    square = torch.arange(dim * dim).view(dim, dim)
    monkeypatch.setattr(redundancy, "world_size", lambda: processes)
    shares, entries = [], []
    for number in range(processes):
        monkeypatch.setattr(redundancy, "rank", lambda: number)
        own = own_dimensions(dim)
        shares.append(len(own))
        entries.append(off_diagonal(square[own.start : own.stop], own.start))
        diagonal = square[own.start : own.stop].diagonal(own.start)
        assert diagonal.tolist() == [i * dim + i for i in own]
    assert sum(shares) == dim and max(shares) - min(shares) <= 1
    assert torch.equal(torch.cat(entries), off_diagonal(square))


def test_match_lightly() -> None:
    lightly = pytest.importorskip("lightly.loss", reason="lightly (extra `test`) is not installed")
    z = embeddings(2)
    variance, covariance_term = variance_and_covariance(z)
    ours = 25 * invariance(z, [(0, 1)]) + 25 * variance + covariance_term
    torch.testing.assert_close(ours, lightly.VICRegLoss()(z[0], z[1]))
    ours = sum(barlow_pairs(z, [(0, 1)], 5e-3).values())
    torch.testing.assert_close(ours, lightly.BarlowTwinsLoss(lambda_param=5e-3)(z[0], z[1]))


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "invariance": lambda z: invariance(z, PAIRS),
    "variance": lambda z: variance_and_covariance(z)[0],
    "covariance": lambda z: variance_and_covariance(z)[1],
    "barlow": lambda z: sum(barlow_pairs(z, PAIRS, 0.1).values()),
}


def step(wrap: Callable[[nn.Module], nn.Module], images: Tensor) -> dict[str, Tensor]:
    """Mean of each loss over the processes, and its gradient; views (3, N, 3, 5, 5)."""
    results = {}
    for name, loss in LOSSES.items():
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        head = build_projector(36, hidden_dim=6, out_dim=5, style="barlow")
        model = wrap(nn.Sequential(body, nn.Flatten(), head))
        value = loss(model(images.flatten(0, 1)).unflatten(0, images.shape[:2]))
        value.backward()
        results[name] = all_reduce_mean(value)
        results[f"{name} gradient"] = torch.cat([p.grad.flatten() for p in model.parameters()])
    return results


def wrapped(model: nn.Module) -> nn.Module:
    model = convert_sync_batchnorm(model, torch.device("cpu"))
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes: its half of the images, through our SyncBN and DDP."""
    images = draw(3, 8, 3, 5, 5, dtype=torch.float32)[:, rank * 4 : rank * 4 + 4]
    torch.save(step(wrapped, images), f"{folder}/{rank}.pt")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_in_two(half_of_the_batch, tmp_path)
    whole = step(lambda model: model, draw(3, 8, 3, 5, 5, dtype=torch.float32))
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in whole.items():
            scale = value.abs().max().item()
            torch.testing.assert_close(
                theirs[name], value, rtol=1e-4, atol=1e-4 * scale, msg=lambda m: f"{name}: {m}"
            )


SLOW: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": lambda z: sum(slow_variance(view) for view in z) / len(z),
    "covariance": lambda z: 2 * sum(slow_covariance(view) for view in z) / len(z),
    "barlow": lambda z: sum(sum(slow_barlow(z[a], z[b], 0.1)) for a, b in PAIRS) / len(PAIRS),
}
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5}
DIMENSIONS = (5, 4, 1)  # shared unevenly, evenly, and so that one process has no rows


def half_of_the_embeddings(rank: int, folder: str) -> None:
    """One of two processes: the values, the gradients of its half of the embeddings after
    DistributedDataParallel's mean, and the FLOPs of each loss."""
    results = {}
    for name, dim, dtype in itertools.product(SLOW, DIMENSIONS, TOLERANCES):
        z = embeddings(3, dim=dim).to(dtype)[:, rank * 3 : rank * 3 + 3].requires_grad_()
        with FlopCounterMode(display=False) as counter:
            value = LOSSES[name](z)
            value.backward()
        results[name, dim, str(dtype)] = (value.detach(), z.grad / 2, counter.get_total_flops())
    torch.save(results, f"{folder}/{rank}.pt")


def test_shared_rows_give_the_whole_matrix(tmp_path: Path) -> None:
    """Three views; both processes have the loss of the slow loops over all images, the gradients
    of their own images, and a part of one process's FLOPs that is as large as their rows' part."""
    run_in_two(half_of_the_embeddings, tmp_path)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, dim in itertools.product(SLOW, DIMENSIONS):
        z = embeddings(3, dim=dim).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            LOSSES[name](z).backward()
        z.grad = None
        expected = SLOW[name](z)
        expected.backward()
        for rank, (dtype, tolerance) in itertools.product(range(2), TOLERANCES.items()):
            value, gradient, flops = results[rank][name, dim, str(dtype)]
            own = z.grad[:, rank * 3 : rank * 3 + 3]
            for ours, reference in ((value, expected.detach()), (gradient, own)):
                atol = tolerance * max(1, reference.abs().max().item())
                torch.testing.assert_close(ours, reference.to(dtype), rtol=0, atol=atol)
            rows = (dim + rank) // 2
            assert flops == counter.get_total_flops() * rows / dim
