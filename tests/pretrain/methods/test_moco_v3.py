"""MoCo v3 against the written-out symmetric contrast with momentum keys, and against the authors'
order of steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from torch.optim import SGD

from pretrain.methods.moco_v3 import MoCoV3
from pretrain.methods.target import Momentum

TEMPERATURE = 0.4


def contrast(q: Tensor, k: Tensor) -> Tensor:
    """The loss of one direction, with the authors' factor."""
    logits = normalize(q, dim=1) @ normalize(k, dim=1).T / TEMPERATURE
    return 2 * TEMPERATURE * cross_entropy(logits, torch.arange(len(q)))


def online(method: MoCoV3, images: Tensor) -> Tensor:
    return method.predictor(method.projector(method.trunk(images)))


def target(method: MoCoV3, images: Tensor) -> Tensor:
    with torch.no_grad():
        return method.target_projector(method.target_trunk(images))


def slow_loss(method: MoCoV3, images: list[Tensor]) -> Tensor:
    q1, q2 = online(method, images[0]), online(method, images[1])
    k1, k2 = target(method, images[0]), target(method, images[1])
    return contrast(q1, k2) + contrast(q2, k1)


@pytest.fixture
def method(parts: Callable, moved: Callable) -> MoCoV3:
    """With a target that differs from the online network."""
    built = MoCoV3(*parts("moco_v3", "moco_v3"), Momentum(0.9), temperature=TEMPERATURE)
    moved(built.target_trunk)
    moved(built.target_projector)
    return built


def test_two_views(method: MoCoV3, views: Callable, same_step: Callable) -> None:
    images = views(2)
    same_step(method, lambda m: m(images, [0, 1])["loss"], lambda m: slow_loss(m, images))
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"trunk", "projector", "predictor"}


def test_several_views_are_the_mean_over_pairs(
    method: MoCoV3, views: Callable, same_step: Callable
) -> None:
    images = views(3)

    def slow(copied: MoCoV3) -> Tensor:
        q0, k0 = online(copied, images[0]), target(copied, images[0])
        q1, q2 = online(copied, torch.cat(images[1:])).split(6)
        k1, k2 = target(copied, torch.cat(images[1:])).split(6)
        first = contrast(q0, k1) + contrast(q1, k0)
        return (first + contrast(q0, k2) + contrast(q2, k0)) / 2

    same_step(method, lambda m: m(images, [0, 1, 1])["loss"], slow)


def test_copies_are_those_of_the_authors_order(parts: Callable, views: Callable) -> None:
    """The authors move the target before its forward pass, we after the optimizer's step."""
    ours = MoCoV3(*parts("moco_v3", "moco_v3"), Momentum(0.8), temperature=TEMPERATURE)
    theirs = copy.deepcopy(ours)
    steps = [SGD([p for p in m.parameters() if p.requires_grad], 0.5) for m in (ours, theirs)]
    for number in range(4):
        images = views(2, seed=number)
        theirs.after_step(number, 4)
        losses = [ours(images, [0, 1])["loss"], slow_loss(theirs, images)]
        torch.testing.assert_close(losses[0], losses[1])
        for loss, optimizer in zip(losses, steps):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        ours.after_step(number, 4)
    for name, value in theirs.state_dict().items():
        if not name.startswith("target"):
            torch.testing.assert_close(ours.state_dict()[name], value)
    moved = (ours.target_trunk[0].weight - theirs.target_trunk[0].weight).abs().max()
    assert moved > 1e-4, "ours is one update ahead after the last step"


def test_terms_and_rates(method: MoCoV3, views: Callable) -> None:
    result = method(views(2), [0, 1])
    torch.testing.assert_close(result["terms"], {"contrast": result["loss"].detach()})
    ours = {id(p) for p in method.constant_rate()}
    assert ours == {id(p) for p in method.predictor.parameters()}
