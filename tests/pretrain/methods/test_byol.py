"""BYOL against the written-out symmetric regression on a momentum copy: losses, gradients (none for
the target), and which batch-norm statistics change.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.methods.byol import BYOL, MomentumPredictor
from pretrain.methods.target import Momentum


def regression(prediction: Tensor, target: Tensor) -> Tensor:
    """Equation 2 of the paper, mean over images."""
    difference = normalize(prediction, dim=1) - normalize(target, dim=1)
    return difference.square().sum(dim=1).mean()


def build(parts: Callable, moved: Callable, **options: object) -> BYOL:
    """With a target that differs from the online network, as after some steps."""
    method = BYOL(*parts("byol", "byol"), Momentum(0.9, "cosine"), **options)
    moved(method.target_trunk)
    moved(method.target_projector)
    return method


def online(method: BYOL, images: Tensor) -> Tensor:
    return method.predictor(method.projector(method.trunk(images)))


def target(method: BYOL, images: Tensor) -> Tensor:
    with torch.no_grad():
        return method.target_projector(method.target_trunk(images))


@pytest.mark.parametrize("joint", [False, True])
def test_two_views(
    joint: bool, parts: Callable, views: Callable, moved: Callable, same_step: Callable
) -> None:
    method, images = build(parts, moved, joint_forward=joint), views(2)

    def slow(copied: BYOL) -> Tensor:
        if joint:
            q1, q2 = online(copied, torch.cat(images)).split(6)
            k1, k2 = target(copied, torch.cat(images)).split(6)
        else:
            q1, q2 = online(copied, images[0]), online(copied, images[1])
            k1, k2 = target(copied, images[0]), target(copied, images[1])
        return regression(q1, k2) + regression(q2, k1)

    same_step(method, lambda m: m(images, [0, 1])["loss"], slow)
    networks = nn.ModuleList([method.trunk, method.projector, method.predictor])
    assert all(p.grad is not None for p in networks.parameters())


def test_three_views_are_the_mean_over_pairs(
    parts: Callable, views: Callable, moved: Callable, same_step: Callable
) -> None:
    method, images = build(parts, moved), views(3)

    def slow(copied: BYOL) -> Tensor:
        # Pairs (1, 0) and (1, 2), in both directions; a pass for each branch.
        q1, k1 = online(copied, images[1]), target(copied, images[1])
        q0, q2 = online(copied, torch.cat([images[0], images[2]])).split(6)
        k0, k2 = target(copied, torch.cat([images[0], images[2]])).split(6)
        first = regression(q1, k0) + regression(q0, k1)
        return (first + regression(q1, k2) + regression(q2, k1)) / 2

    same_step(method, lambda m: m(images, [1, 0, 1])["loss"], slow)


def test_nothing_of_the_target_is_trained(
    parts: Callable, views: Callable, moved: Callable
) -> None:
    method = build(parts, moved)
    method(views(2), [0, 1])["loss"].backward()
    frozen = nn.ModuleList([method.target_trunk, method.target_projector])
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    ours = {id(p) for p in method.constant_rate()}
    assert ours == {id(p) for p in method.predictor.parameters()}


def test_statistics_of_the_target_are_its_own(
    parts: Callable, views: Callable, moved: Callable
) -> None:
    method, images = build(parts, moved), views(2)
    method(images, [0, 1])
    means = torch.zeros(6, dtype=torch.float64)
    for view in images:  # of the target's convolution, which differs from the online one
        batch = method.target_trunk[0](view).mean(dim=(0, 2, 3))
        means = 0.9 * means + 0.1 * batch
    torch.testing.assert_close(method.target_trunk[1].running_mean, means.detach())
    before = method.target_trunk[1].running_mean.clone()
    assert (method.trunk[1].running_mean - before).abs().max() > 1e-3
    method.after_step(0, 10)
    assert torch.equal(method.target_trunk[1].running_mean, before), "the update takes weights only"


def test_the_target_follows_after_each_step(
    parts: Callable, views: Callable, moved: Callable
) -> None:
    method = build(parts, moved)
    pairs = [("trunk", "target_trunk"), ("projector", "target_projector")]
    for step in (0, 3, 9):
        tau = 1 - (1 - 0.9) * (math.cos(math.pi * step / 10) + 1) / 2
        before = copy.deepcopy(method)
        method.after_step(step, 10)
        for ours, theirs in pairs:
            sources = getattr(before, ours).parameters()
            olds, news = getattr(before, theirs).parameters(), getattr(method, theirs).parameters()
            for source, old, new in zip(sources, olds, news):
                torch.testing.assert_close(new, tau * old + (1 - tau) * source)
    for name, parameter in method.named_parameters():
        if not name.startswith("target"):
            assert torch.equal(parameter, dict(before.named_parameters())[name]), name


def test_terms_and_features(parts: Callable, views: Callable, moved: Callable) -> None:
    method, images = build(parts, moved), views(2)
    result = method(images, [0, 1])
    torch.testing.assert_close(result["terms"], {"regression": result["loss"].detach()})
    torch.testing.assert_close(result["features"], method.trunk(images[0]).detach())
    with pytest.raises(NotImplementedError):
        MomentumPredictor(*parts("byol", "byol"), Momentum(0.9))(images, [0, 1])
