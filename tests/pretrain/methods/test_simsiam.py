"""SimSiam against the written-out D(p1, z2) / 2 + D(p2, z1) / 2: losses, gradients, statistics."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pretrain.methods.pairs import all_pairs
from pretrain.methods.simsiam import SimSiam


def distance(p: Tensor, z: Tensor) -> Tensor:
    """D(p, z) with the stop-gradient."""
    return -(normalize(p, dim=1) * normalize(z.detach(), dim=1)).sum(dim=1).mean()


def encoded(method: SimSiam, images: Tensor) -> tuple[Tensor, Tensor]:
    z = method.projector(method.trunk(images))
    return method.predictor(z), z


@pytest.mark.parametrize("joint", [False, True])
def test_two_views(joint: bool, parts: Callable, views: Callable, same_step: Callable) -> None:
    method, images = SimSiam(*parts("simsiam", "simsiam"), joint_forward=joint), views(2)

    def slow(copied: SimSiam) -> Tensor:
        if joint:
            p, z = encoded(copied, torch.cat(images))
            (p1, p2), (z1, z2) = p.split(6), z.split(6)
        else:
            p1, z1 = encoded(copied, images[0])
            p2, z2 = encoded(copied, images[1])
        return distance(p1, z2) / 2 + distance(p2, z1) / 2

    same_step(method, lambda m: m(images, [0, 1])["loss"], slow)
    assert all(p.grad is not None for p in method.parameters())


def test_three_views_are_the_mean_over_pairs(
    parts: Callable, views: Callable, same_step: Callable
) -> None:
    method, images = SimSiam(*parts("simsiam", "simsiam"), pairing=all_pairs), views(3)

    def slow(copied: SimSiam) -> Tensor:
        # A pass for each branch: view 0, then views 1 and 2 under one set of statistics.
        p0, z0 = encoded(copied, images[0])
        p, z = encoded(copied, torch.cat(images[1:]))
        p, z = [p0, *p.split(6)], [z0, *z.split(6)]
        pairs = [(0, 1), (0, 2), (1, 2)]
        return sum(distance(p[a], z[b]) / 2 + distance(p[b], z[a]) / 2 for a, b in pairs) / 3

    same_step(method, lambda m: m(images, [0, 1, 1])["loss"], slow)


def test_terms_and_features(parts: Callable, views: Callable) -> None:
    method, images = SimSiam(*parts("simsiam", "simsiam")), views(2)
    result = method(images, [0, 1])
    features = method.trunk(images[0])
    torch.testing.assert_close(result["features"], features.detach())
    rows = [row / row.norm() for row in method.projector(features).detach()]
    columns = torch.stack(rows).T
    deviations = [
        (sum((x - column.mean()) ** 2 for x in column) / (len(column) - 1)).sqrt()
        for column in columns
    ]
    expected = sum(deviations) / len(deviations)
    torch.testing.assert_close(result["terms"]["output_std"].double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(result["terms"]["negative_cosine"], result["loss"].detach())
    assert not any(value.requires_grad for value in result["terms"].values())


def test_only_the_predictors_rate_is_constant(parts: Callable) -> None:
    method = SimSiam(*parts("simsiam", "simsiam"))
    ours = {id(p) for p in method.constant_rate()}
    assert ours == {id(p) for p in method.predictor.parameters()}
    assert method.without_decay() == []
