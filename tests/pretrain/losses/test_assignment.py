"""MSN's terms, sharpening and Sinkhorn against loops over images and prototypes, lightly's, and
over two processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pretrain.common.distributed import all_reduce_mean
from pretrain.losses.assignment import msn_terms, prototype_probabilities, sharpen, sinkhorn
from tests.two_processes import run_in_two

SETTINGS = {"temperature": 0.3, "target_sharpening": 0.25}
TERMS = ("assignment", "mean_entropy", "entropy")


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_probabilities(row: Tensor, prototypes: Tensor, temperature: float) -> list[Tensor]:
    scores = [
        torch.exp((row @ p) / (row.norm() * p.norm()) / temperature) for p in prototypes.unbind()
    ]
    return [score / sum(scores) for score in scores]


def slow_sharpen(probabilities: list[Tensor], temperature: float) -> list[Tensor]:
    powers = [p ** (1 / temperature) for p in probabilities]
    return [power / sum(powers) for power in powers]


def slow_sinkhorn(table: list[list[Tensor]], rounds: int = 3) -> list[list[Tensor]]:
    """Prototypes (columns) to mass 1/K, then images (rows) to mass 1/N, in turn; rows sum to 1."""
    images, count = len(table), len(table[0])
    for _ in range(rounds):
        mass = [sum(row[k] for row in table) for k in range(count)]
        table = [[row[k] / mass[k] / count for k in range(count)] for row in table]
        table = [[value / sum(row) / images for value in row] for row in table]
    return [[value * images for value in row] for row in table]


def slow_terms(anchors: Tensor, targets: Tensor, prototypes: Tensor, balance: bool) -> dict:
    """The paper's equations 1 and 2, and the mean entropy of the anchors' predictions."""
    temperature = SETTINGS["temperature"]
    wanted = [
        slow_sharpen(slow_probabilities(t, prototypes, temperature), SETTINGS["target_sharpening"])
        for t in targets
    ]
    wanted = slow_sinkhorn(wanted) if balance else wanted
    rows = [
        (slow_probabilities(row, prototypes, temperature), target)
        for view in anchors
        for row, target in zip(view, wanted)
    ]
    cross = [-sum(t.detach() * p.log() for t, p in zip(target, row)) for row, target in rows]
    entropies = [-sum(p * p.log() for p in row) for row, _ in rows]
    mean = [sum(row[k] for row, _ in rows) / len(rows) for k in range(len(prototypes))]
    return {
        "assignment": sum(cross) / len(rows),
        "mean_entropy": math.log(len(prototypes)) + sum(p * p.log() for p in mean),
        "entropy": sum(entropies) / len(rows),
    }


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("term", TERMS)
def test_values_and_gradients_match_the_loop(term: str, balance: bool) -> None:
    results = []
    targets = draw(4, 6, seed=1).requires_grad_()
    for terms in (lambda *x: msn_terms(*x, **SETTINGS, balance=balance), slow_terms):
        anchors = draw(3, 4, 6).requires_grad_()
        prototypes = draw(5, 6, seed=2).requires_grad_()
        if terms is slow_terms:
            value = terms(anchors, targets.detach(), prototypes, balance)[term]
        else:
            value = terms(anchors, targets, prototypes)[term]
        value.backward()
        results.append((value.detach(), anchors.grad, prototypes.grad))
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)
    assert targets.grad is None


def test_sharpen_and_sinkhorn_match_the_loops() -> None:
    table = prototype_probabilities(draw(7, 6), draw(5, 6, seed=2), 0.3)
    expected = torch.stack([torch.stack(slow_sharpen(list(row), 0.25)) for row in table])
    torch.testing.assert_close(sharpen(table, 0.25), expected)
    for rounds in (1, 3):
        slow = slow_sinkhorn([list(row) for row in table], rounds)
        balanced = sinkhorn(table, rounds)
        torch.testing.assert_close(balanced, torch.stack([torch.stack(row) for row in slow]))
        torch.testing.assert_close(balanced.sum(dim=1), table.new_ones(7))


def test_sinkhorn_gives_all_prototypes_equal_mass() -> None:
    table = prototype_probabilities(draw(8, 6), draw(5, 6, seed=2), 0.3)
    assert (table.sum(dim=0) - 8 / 5).abs().max() > 0.2, "unbalanced before"
    torch.testing.assert_close(sinkhorn(table, 200).sum(dim=0), table.new_full((5,), 8 / 5))


def test_limits_of_the_mean_entropy() -> None:
    prototypes = torch.eye(4, dtype=torch.float64)
    settings = {"temperature": 0.01, "target_sharpening": 0.25, "balance": False}
    spread = msn_terms(prototypes[None], prototypes, prototypes, **settings)
    assert spread["mean_entropy"].item() == pytest.approx(0, abs=1e-9)
    assert spread["assignment"].item() == pytest.approx(0, abs=1e-9)
    collapsed = msn_terms(prototypes[None, [0, 0]], prototypes[[0, 0]], prototypes, **settings)
    assert collapsed["mean_entropy"].item() == pytest.approx(math.log(4))


def test_finite_where_a_probability_underflows() -> None:
    prototypes = torch.eye(3)
    anchors = prototypes[None, [0, 1]].clone().requires_grad_()
    terms = msn_terms(
        anchors,
        prototypes[[1, 0]],
        prototypes,
        temperature=1e-3,
        target_sharpening=0.25,
        balance=True,
    )
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values()) and terms["assignment"] > 10
    assert anchors.grad.isfinite().all()


@pytest.mark.parametrize("rounds", [0, 3])
def test_matches_lightly(rounds: int) -> None:
    # In one process: lightly averages the prediction of each process alone.
    lightly = pytest.importorskip("lightly.loss", reason="lightly (extra `test`) is not installed")
    anchors, targets, prototypes = draw(3, 4, 6), draw(4, 6, seed=1), draw(5, 6, seed=2)
    theirs = lightly.MSNLoss(temperature=0.3, sinkhorn_iterations=rounds, regularization_weight=2)
    ours = msn_terms(anchors, targets, prototypes, **SETTINGS, balance=rounds > 0)
    torch.testing.assert_close(
        ours["assignment"] + 2 * ours["mean_entropy"],
        theirs(anchors.flatten(0, 1), targets, prototypes, target_sharpen_temperature=0.25),
    )


class Network(nn.Module):
    """A linear encoder and the prototypes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(7, 6)
        self.prototypes = nn.Parameter(torch.randn(5, 6))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(images), 1.0 * self.prototypes


def step(wrap: Callable[[nn.Module], nn.Module], anchors: Tensor, targets: Tensor) -> dict:
    """Mean of each term over the processes, and its gradient."""
    results = {}
    for term in TERMS:
        model = wrap(Network().double())
        embedded, prototypes = model(anchors)
        value = msn_terms(embedded, targets, prototypes, **SETTINGS, balance=True)[term]
        value.backward()
        results[term] = all_reduce_mean(value)
        results[f"{term} gradient"] = torch.cat([p.grad.flatten() for p in model.parameters()])
    return results


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes: its half of the images, through DDP."""
    mine = slice(rank * 4, rank * 4 + 4)
    anchors, targets = draw(2, 8, 7)[:, mine], draw(8, 6, seed=1)[mine]
    results = step(nn.parallel.DistributedDataParallel, anchors, targets)
    torch.save(results, f"{folder}/{rank}.pt")


def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    run_in_two(half_of_the_batch, tmp_path)
    whole = step(lambda model: model, draw(2, 8, 7), draw(8, 6, seed=1))
    for rank in range(2):
        theirs = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in whole.items():
            torch.testing.assert_close(theirs[name], value, msg=lambda m: f"{name}: {m}")
