"""A batch in parts equals the full batch in one graph: gradients, loss, running statistics."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import build_resnet
from pretrain.common.distributed import distribute
from pretrain.common.sync_batchnorm import convert_group_batchnorm, convert_sync_batchnorm
from pretrain.engine.grad_cache import forward_backward_in_parts
from pretrain.engine.loop import forward_backward, prepared, train
from pretrain.engine.run import build_training
from pretrain.methods.barlow import BarlowTwins
from pretrain.methods.shared_encoder import SharedEncoder
from pretrain.methods.simclr import SimCLR
from pretrain.methods.vicreg import VICReg
from tests.two_processes import run_in_two

METHODS = {"simclr": SimCLR, "vicreg": VICReg, "barlow": BarlowTwins}


def make(name: str, joint: bool) -> SharedEncoder:
    torch.manual_seed(0)
    projector = build_projector(128, hidden_dim=16, out_dim=8, layers=2, style=name)
    method = METHODS[name](build_resnet("tiny_resnet"), projector, joint_forward=joint)
    return method.double().train()


def images(views: int, count: int, rank: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shape = (count, 3, 16, 16)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(views)]


def in_parts(method: SharedEncoder, model: nn.Module, parts: int, *given: Any) -> dict[str, Any]:
    return forward_backward_in_parts(
        method, model, *given, parts=parts, autocast=nullcontext, backward=torch.Tensor.backward
    )


def in_one_graph(method: SharedEncoder, model: nn.Module, parts: int, *given: Any) -> Tensor:
    """The slow twin: the embeddings of all parts, each with its graph, and one backward pass."""
    views, branches = given
    split = [[view.chunk(parts)[part] for view in views] for part in range(parts)]
    z = torch.cat([method.embed(part, branches)[1] for part in split], dim=1)
    loss = torch.stack(list(method.compare(z, branches).values())).sum()
    loss.backward()
    return loss.detach()


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("branches, joint", [([0, 1], True), ([0, 1], False), ([0, 1, 1], True)])
@pytest.mark.parametrize("parts", [2, 3])
def test_parts_equal_one_graph(name: str, branches: list[int], joint: bool, parts: int) -> None:
    method = make(name, joint)
    slow = copy.deepcopy(method)
    views = images(len(branches), 6)
    result = in_parts(method, method, parts, views, branches)
    expected = in_one_graph(slow, slow, parts, views, branches)
    torch.testing.assert_close(result["loss"], expected, rtol=1e-9, atol=0)
    assert result["features"].shape == (6, 128) and not result["loss"].requires_grad
    ours, theirs = gradients(method), gradients(slow)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_equal_the_whole_batch_with_norms_over_groups(name: str, parts: int) -> None:
    """Then also the running statistics are the same: they move once, by the mean."""
    method = make(name, joint=False)
    whole = copy.deepcopy(method)
    convert_group_batchnorm(whole, 8 // parts)
    views = images(2, 8)
    result = in_parts(method, method, parts, views, [0, 1])
    expected = whole(views, [0, 1])
    expected["loss"].backward()
    torch.testing.assert_close(result["loss"], expected["loss"].detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(result["features"], expected["features"], rtol=1e-9, atol=1e-12)
    for key, value in gradients(whole).items():
        torch.testing.assert_close(gradients(method)[key], value, rtol=1e-6, atol=1e-9)
    moved = dict(whole.named_buffers())
    for key, value in method.named_buffers():
        torch.testing.assert_close(value, moved[key], rtol=1e-9, atol=1e-12)


class Live:
    """The most values at a time that autograd has kept for backward passes, parameters left out."""

    def __init__(self, module: nn.Module) -> None:
        self.parameters = {parameter.data_ptr() for parameter in module.parameters()}
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> Holder:
        holder = Holder([tensor])
        if tensor.data_ptr() not in self.parameters:
            self.now += tensor.numel()
            self.most = max(self.most, self.now)
            weakref.finalize(holder, self._drop, tensor.numel())
        return holder

    def _drop(self, count: int) -> None:
        self.now -= count


class Holder(list):
    """A list that can be watched."""


def test_one_parts_graph_exists_at_a_time() -> None:
    most = []
    for parts in (1, 4):
        method = make("simclr", True)
        live = Live(method)
        with torch.autograd.graph.saved_tensors_hooks(live.pack, lambda kept: kept[0]):
            in_parts(method, method, parts, images(2, 16), [0, 1])
        assert live.now == 0
        most.append(live.most)
    assert most[1] < 0.3 * most[0]


def two_processes(rank: int, folder: str) -> None:
    for name in METHODS:
        method = convert_sync_batchnorm(make(name, True), torch.device("cpu"))
        slow = copy.deepcopy(method)
        views, branches = images(3, 4, rank), [0, 1, 1]
        in_parts(method, distribute(method), 2, views, branches)
        in_one_graph(slow, slow, 2, views, branches)
        for key, value in gradients(slow).items():
            dist.all_reduce(value)  # what DistributedDataParallel would do
            ours = gradients(method)[key]
            torch.testing.assert_close(ours, value / 2, rtol=1e-6, atol=1e-9, msg=f"{name} {key}")
        for key, value in method.named_buffers():
            first = value.clone()
            dist.broadcast(first, 0)
            assert torch.equal(first, value), key


def test_parts_over_two_processes(tmp_path: Path) -> None:
    """Negatives of all processes and parts; gradients are exchanged once, with the last part."""
    run_in_two(two_processes, tmp_path)


NO_WARMUP = ("SOLVER.WARMUP_EPOCHS", 0.0)
SIMCLR = ("METHOD.NAME", "simclr", "VIEWS.B.COUNT", 1, "SOLVER.OPTIMIZER", "sgd")


def first_step(cfg: CfgNode, bf16: bool) -> dict[str, Tensor]:
    """Gradients and running statistics after the first step of a run."""
    training = build_training(cfg, torch.device("cpu"))
    training.bf16 = bf16
    training.model.train()
    outcome = forward_backward(training, next(prepared(training)))
    assert torch.isfinite(outcome["loss"]) and len(outcome["crops"]) == 2
    return {**gradients(training.method), **dict(training.method.named_buffers())}


@pytest.mark.parametrize("bf16, error", [(False, 1e-4), (True, 0.02)])
def test_a_step_of_a_run_in_parts(
    bf16: bool, error: float, tiny_config: Callable[..., CfgNode]
) -> None:
    """It is the step of a run with norms over groups of a part's size, in both precisions."""
    by_branch = (*SIMCLR, "METHOD.JOINT_FORWARD", False)
    parts = first_step(tiny_config(*by_branch, "SOLVER.ACCUMULATE", 2), bf16)
    whole = first_step(tiny_config(*by_branch, "METHOD.BN_GROUP", 4), bf16)
    assert parts.keys() == whole.keys()
    for key, value in whole.items():
        if value.is_floating_point() and value.norm() > 1e-4:
            assert (parts[key] - value).norm() <= error * value.norm(), key


def test_a_step_that_is_not_finite_leaves_the_statistics(
    tiny_config: Callable[..., CfgNode],
) -> None:
    training = build_training(
        tiny_config(*SIMCLR, "SOLVER.ACCUMULATE", 4, "SOLVER.MAX_STEPS", 2, *NO_WARMUP),
        torch.device("cpu"),
    )
    before = copy.deepcopy(training.method.state_dict())
    plain = training.method.loss
    calls: list[int] = []

    def loss(z: Tensor, pairs: Any) -> dict[str, Tensor]:
        calls.append(z.shape[1])
        return {"nt_xent": plain(z, pairs)["nt_xent"] * (float("nan") if len(calls) == 1 else 1)}

    training.method.loss = loss

    class Look:
        def start(self, training: Any) -> None: ...
        def end(self, training: Any) -> None: ...
        def close(self) -> None: ...

        def step(self, training: Any, outcome: dict[str, Any]) -> None:
            state = training.method.state_dict()
            same = all(torch.equal(v, before[k]) for k, v in state.items() if v.is_floating_point())
            assert same == (training.step == 1), "the first step is skipped"

    train(training, [Look()])
    assert calls == [8, 8] and training.guard.skipped == 1
