"""VICReg and Barlow Twins on a shared encoder: which terms are over pairs and which over views,
against the authors' written-out losses of two views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from pretrain.methods.barlow import BarlowTwins
from pretrain.methods.base import Method
from pretrain.methods.pairs import all_pairs
from pretrain.methods.shared_encoder import SharedEncoder
from pretrain.methods.vicreg import VICReg

WEIGHTS = (20.0, 10.0, 2.0)


def variance(z: Tensor) -> Tensor:
    return torch.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()


def covariance(z: Tensor) -> Tensor:
    matrix = torch.cov(z.T)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / z.shape[1]


def barlow(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """Equation 1 of the paper on batch-normalised embeddings."""
    a, b = [(z - z.mean(dim=0)) / torch.sqrt(z.var(dim=0, correction=0) + 1e-5) for z in (a, b)]
    matrix = a.T @ b / len(a)
    on = (1 - matrix.diagonal()).square().sum()
    return on + weight * (matrix.square().sum() - matrix.diagonal().square().sum())


def embeddings(method: Method, images: Sequence[Tensor], passes: list[list[int]]) -> dict:
    z: dict[int, Tensor] = {}
    for group in passes:
        rows = method.projector(method.trunk(torch.cat([images[view] for view in group])))
        z.update(zip(group, rows.split(6)))
    return z


@pytest.mark.parametrize("joint, passes", [(False, [[0], [1]]), (True, [[0, 1]])])
def test_vicreg_of_two_views_is_the_authors(
    joint: bool, passes: list, parts: Callable, views: Callable, same_step: Callable
) -> None:
    method, images = VICReg(*parts("vicreg"), joint_forward=joint), views(2)

    def slow(copied: VICReg) -> Tensor:
        z = embeddings(copied, images, passes)
        spread = variance(z[0]) / 2 + variance(z[1]) / 2
        return (
            25 * (z[0] - z[1]).square().mean()
            + 25 * spread
            + 1 * (covariance(z[0]) + covariance(z[1]))
        )

    same_step(method, lambda m: m(images, [0, 1])["loss"], slow)


@pytest.mark.parametrize("pairing, pairs", [("cross", 2), ("all", 3)])
def test_vicreg_of_three_views_counts_each_view_once(
    pairing: str, pairs: int, parts: Callable, views: Callable, same_step: Callable
) -> None:
    options = {"pairing": all_pairs} if pairing == "all" else {}
    method, images = VICReg(
        *parts("vicreg"), weights=WEIGHTS, joint_forward=True, **options
    ), views(4)

    def slow_terms(copied: VICReg) -> dict[str, Tensor]:
        # View 3 is focal, and in none of it.
        z = embeddings(copied, images, [[0, 1, 2]])
        chosen = [(0, 1), (0, 2), (1, 2)][:pairs]
        return {
            "invariance": 20 * sum((z[a] - z[b]).square().mean() for a, b in chosen) / pairs,
            "variance": 10 * sum(variance(z[view]) for view in range(3)) / 3,
            "covariance": 2 * sum(covariance(z[view]) for view in range(3)) * 2 / 3,
        }

    branches = [0, 1, 1, 2]
    same_step(method, lambda m: m(images, branches)["loss"], lambda m: sum(slow_terms(m).values()))
    terms = method(images, branches)["terms"]
    torch.testing.assert_close(terms, {k: v.detach() for k, v in slow_terms(method).items()})


@pytest.mark.parametrize("joint, passes", [(True, [[0, 1, 2]]), (False, [[1], [0, 2]])])
def test_barlow_is_the_mean_over_pairs(
    joint: bool, passes: list, parts: Callable, views: Callable, same_step: Callable
) -> None:
    method, images = BarlowTwins(*parts("barlow"), joint_forward=joint), views(3)

    def slow(copied: BarlowTwins) -> Tensor:
        z = embeddings(copied, images, passes)
        return (barlow(z[1], z[0], 0.0051) + barlow(z[1], z[2], 0.0051)) / 2

    same_step(method, lambda m: m(images, [1, 0, 1])["loss"], slow)


def test_terms_add_up_to_the_loss(parts: Callable, views: Callable) -> None:
    joint = {"joint_forward": True}
    for method in (VICReg(*parts("vicreg"), **joint), BarlowTwins(*parts("barlow"), **joint)):
        result = method(views(2), [0, 1])
        torch.testing.assert_close(sum(result["terms"].values()), result["loss"].detach())
        torch.testing.assert_close(
            result["features"], method.trunk(torch.cat(views(2)))[:6].detach()
        )
    assert set(result["terms"]) == {"on_diagonal", "off_diagonal"}


def test_views_in_no_pair_are_not_encoded(parts: Callable, views: Callable) -> None:
    method = BarlowTwins(*parts("barlow"), pairing=lambda branches: [(3, 1)]).eval()
    images = [torch.full((6, 3, 8, 8), torch.nan), *views(3)]
    images[2] = images[0]
    with torch.no_grad():
        z = [method.projector(method.trunk(images[view])) for view in (3, 1)]
        loss = method(images, [0, 0, 1, 1])["loss"]
    torch.testing.assert_close(loss, barlow(*z, 0.0051))


def test_the_base_class_has_no_loss(parts: Callable, views: Callable) -> None:
    with pytest.raises(NotImplementedError):
        SharedEncoder(*parts("barlow"))(views(2), [0, 1])
