"""MoCo: the loss against a written-out one, the order of the keys in the queue, directions and
several views, and the shuffle in one process; two processes are in test_moco_processes.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from pretrain.common.sync_batchnorm import convert_group_batchnorm
from pretrain.methods.moco import MoCo, shared_order
from pretrain.methods.pairs import all_pairs
from pretrain.methods.target import Momentum

TEMPERATURE = 0.2
CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the queue is float32


def contrast(q: Tensor, k: Tensor, queue: Tensor) -> Tensor:
    """Queries against their keys and the queue."""
    q, k = normalize(q, dim=1), normalize(k, dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue], dim=1) / TEMPERATURE
    return cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))


def online(method: MoCo, images: Tensor) -> Tensor:
    return method.projector(method.trunk(images))


def target(method: MoCo, images: Tensor) -> Tensor:
    with torch.no_grad():
        return method.target_projector(method.target_trunk(images))


@pytest.fixture
def build(parts: Callable, moved: Callable) -> Callable[..., MoCo]:
    """With a target that differs from the online network."""

    def make(**options: object) -> MoCo:
        options = {"queue_size": 18, "temperature": TEMPERATURE, "shuffle": False, **options}
        method = MoCo(*parts("moco", dtype=torch.float32), Momentum(0.9), **options)
        moved(method.target_trunk)
        moved(method.target_projector)
        return method

    return make


@pytest.fixture
def images(views: Callable) -> Callable[..., list[Tensor]]:
    return lambda number, seed=1: views(number, seed=seed, dtype=torch.float32)


def test_branch_a_asks_for_branch_b(build: Callable, images: Callable, same_step: Callable) -> None:
    method, (first, second) = build(), images(2)
    same_step(
        method,
        lambda m: m([first, second], [0, 1])["loss"],
        lambda m: contrast(online(m, first), target(m, second), m.queue),
        **CLOSE,
    )
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"trunk", "projector"}


def test_branch_b_asks_when_it_is_online(
    build: Callable, images: Callable, same_step: Callable
) -> None:
    # Three views of B, that are joined in one pass; their loss is the mean over the pairs.
    method, drawn = build(online=1), images(4)

    def slow(copied: MoCo) -> Tensor:
        q, k = online(copied, torch.cat(drawn[1:])), target(copied, drawn[0])
        return sum(contrast(part, k, copied.queue) for part in q.split(6)) / 3

    same_step(method, lambda m: m(drawn, [0, 1, 1, 1])["loss"], slow, **CLOSE)


def test_of_several_key_views_the_first_enters_the_queue(
    build: Callable, images: Callable, same_step: Callable
) -> None:
    method, drawn = build(), images(3)

    def slow(copied: MoCo) -> Tensor:
        q, k = online(copied, drawn[0]), target(copied, torch.cat(drawn[1:]))
        return sum(contrast(q, part, copied.queue) for part in k.split(6)) / 2

    same_step(method, lambda m: m(drawn, [0, 1, 1])["loss"], slow, **CLOSE)
    keys = target(method, torch.cat(drawn[1:])).split(6)[0]
    method.after_step(0, 10)
    torch.testing.assert_close(method.queue[:, :6], normalize(keys, dim=1).T, **CLOSE)


def test_all_pairs_have_one_direction(build: Callable, images: Callable) -> None:
    method, drawn = build(pairing=all_pairs, online=1).eval(), images(3)
    with torch.no_grad():
        loss = method(drawn, [0, 1, 1])["loss"]
        q = [online(method, view) for view in drawn]
        k = [target(method, view) for view in drawn]
    expected = [contrast(q[a], k[b], method.queue) for a, b in ((1, 0), (2, 0), (1, 2))]
    torch.testing.assert_close(loss, sum(expected) / 3, **CLOSE)


@pytest.mark.parametrize("length", [18, 8])  # 8: a batch wraps around within
def test_the_queue_holds_the_last_keys_oldest_overwritten_first(
    length: int, build: Callable, images: Callable
) -> None:
    method = build(queue_size=length)
    torch.testing.assert_close(method.queue.norm(dim=0), torch.ones(length))
    columns = list(method.queue.T.clone())  # a plain list as the reference
    place = 0
    for step in range(5):
        drawn = images(2, seed=step)
        keys = normalize(target(copy.deepcopy(method), drawn[1]), dim=1)
        method(drawn, [0, 1])
        torch.testing.assert_close(method.queue, torch.stack(columns, dim=1), **CLOSE)
        method.after_step(step, 10)
        for key in keys:
            columns[place] = key
            place = (place + 1) % length
        torch.testing.assert_close(method.queue, torch.stack(columns, dim=1), **CLOSE)
        assert method.queue_ptr.tolist() == [place] == [6 * (step + 1) % length]


def test_a_skipped_step_leaves_no_keys(build: Callable, images: Callable) -> None:
    method = build()
    before = method.queue.clone()
    method(images(2), [0, 1])
    assert torch.equal(method.queue, before) and method.queue_ptr.item() == 0
    later = images(2, seed=7)
    keys = normalize(target(copy.deepcopy(method), later[1]), dim=1)
    method(later, [0, 1])
    method.after_step(1, 10)
    torch.testing.assert_close(method.queue[:, :6], keys.T, **CLOSE)
    assert torch.equal(method.queue[:, 6:], before[:, 6:]) and method.queue_ptr.item() == 6
    with pytest.raises(AssertionError, match="follows a forward pass"):
        method.after_step(2, 10)


def test_a_checkpoint_keeps_queue_and_pointer(build: Callable, images: Callable) -> None:
    method = build()
    method(images(2), [0, 1])
    method.after_step(0, 10)
    torch.manual_seed(1)
    resumed = build()
    resumed.load_state_dict(method.state_dict())
    assert resumed.queue_ptr.item() == 6 and torch.equal(resumed.queue, method.queue)
    for either in (method, resumed):
        either.loss = either(images(2, seed=3), [0, 1])["loss"]
        either.after_step(1, 10)
    assert torch.equal(method.loss, resumed.loss) and torch.equal(method.queue, resumed.queue)


def test_the_target_follows(build: Callable, images: Callable) -> None:
    method = build()
    before = copy.deepcopy(method)
    method(images(2), [0, 1])
    method.after_step(3, 10)
    state, old = dict(method.named_parameters()), dict(before.named_parameters())
    for name, value in state.items():
        if name.startswith("target_"):
            source = old[name.removeprefix("target_")]
            torch.testing.assert_close(value, 0.9 * old[name] + 0.1 * source)
        else:
            assert torch.equal(value, old[name]), name


def test_keys_return_from_the_shuffle_in_order(build: Callable, images: Callable) -> None:
    drawn = images(3)
    plain, shuffled = build().eval(), build(shuffle=True).eval()
    losses = [
        method(drawn, [0, 1, 1], generator=torch.Generator().manual_seed(0))["loss"]
        for method in (plain, shuffled)
    ]
    torch.testing.assert_close(*losses, **CLOSE)
    torch.testing.assert_close(plain._keys, shuffled._keys, **CLOSE)


def test_shuffled_keys_have_other_groups_than_queries(
    build: Callable, images: Callable, same_step: Callable
) -> None:
    method, drawn = convert_group_batchnorm(build(shuffle=True), 2), images(2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(4))
    assert order.tolist() != list(range(6))

    def slow(copied: MoCo) -> Tensor:
        keys = torch.empty(6, 5)
        keys[order] = target(copied, drawn[1][order])
        return contrast(online(copied, drawn[0]), keys, copied.queue)

    generator = torch.Generator().manual_seed(4)
    same_step(method, lambda m: m(drawn, [0, 1], generator=generator)["loss"], slow, **CLOSE)
    unshuffled = target(method, drawn[1])
    assert (normalize(unshuffled, dim=1) - method._keys).abs().max() > 1e-2


def test_an_order_is_a_permutation_and_random() -> None:
    generator = torch.Generator().manual_seed(0)
    orders = [shared_order(50, torch.device("cpu"), generator).tolist() for _ in range(2)]
    assert all(sorted(order) == list(range(50)) for order in orders) and orders[0] != orders[1]
