"""The choice of a learning rate: held-out images, and a grid that is extended at its edge."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.classification.protocols.linear import Solver, choose_lr
from transfer.classification.rates import search, selection_notes, split_holdout


def peak(best: float) -> Callable[[list[float]], list[float]]:
    """Scores with one maximum, at the rate nearest to `best` on a log scale."""
    return lambda lrs: [-abs(math.log(lr / best)) for lr in lrs]


@pytest.mark.parametrize(
    "best, chosen, added",
    [
        (0.1, 0.1, []),
        (2.6, 2.7, [0.9, 2.7, 8.1]),
        (0.004, 1 / 270, [1 / 810, 1 / 270, 1 / 90]),
        (1e6, 8.1, [0.9, 2.7, 8.1]),  # bounded: three times
    ],
)
def test_the_grid_grows_towards_the_optimum(best: float, chosen: float, added: list) -> None:
    given = [1 / 30, 0.1, 0.3]
    lr, scores = search(given, peak(best))
    assert lr == pytest.approx(chosen) and list(scores) == sorted(scores)
    notes = selection_notes(lr, scores, given)
    assert notes["lr_per_256_added"] == pytest.approx(added)
    assert notes["held_out_top1"].keys() == {f"{lr:g}" for lr in scores}


def test_equal_neighbours_at_the_edge_are_no_reason_to_go_on() -> None:
    assert search([0.1, 0.3], lambda lrs: [1.0] * len(lrs)) == (0.1, {0.1: 1.0, 0.3: 1.0})
    assert search([0.1], lambda lrs: [1.0]) == (0.1, {0.1: 1.0})


def test_a_linear_probe_whose_best_rate_is_outside_the_grid() -> None:
    """Three quarters of the images are of class 0, so that a head which has hardly moved from zero
    calls only the clearest of class 1 by their name: each step up the grid finds more of them."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(2000) % 4 == 0).long()
    features = torch.randn(2000, 3, generator=generator)
    features[:, 0] += 2.5 * labels
    given = [0.003, 0.01]
    lr, scores = choose_lr(
        features,
        labels,
        given,
        Solver(epochs=2, batch_size=64),
        num_classes=2,
        holdout=0.5,
        generator=generator,
    )
    assert lr > 0.01 and scores[lr] > scores[0.01] + 2 > scores[0.003] + 2
    assert list(scores)[-1] > lr or len(scores) == 5  # inside the grid in the end, or at the bound


def test_holdout_is_stratified_and_disjoint() -> None:
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 2)
    kept, held = split_holdout(labels, 0.1, torch.Generator().manual_seed(0))
    assert sorted(torch.cat([kept, held]).tolist()) == list(range(32))
    assert torch.bincount(labels[held]).tolist() == [2, 1, 1]
    other = split_holdout(labels, 0.1, torch.Generator().manual_seed(1))[1]
    assert held.tolist() != other.tolist()


def test_images_that_leave_nothing_to_hold_out() -> None:
    generator = torch.Generator()
    with pytest.raises(InputError, match="HOLDOUT 1.5"):
        split_holdout(torch.tensor([0, 0]), 1.5, generator)
    with pytest.raises(InputError, match="class 1 has one training image"):
        split_holdout(torch.tensor([0, 0, 1]), 0.5, generator)
