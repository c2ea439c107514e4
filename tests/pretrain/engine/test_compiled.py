"""torch.compile as an option: the same names and numbers, and one line if it fails."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from pretrain.backbones.resnet import build_resnet
from pretrain.engine.compiled import compile_network


def pair() -> tuple[nn.Module, nn.Module]:
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(build_resnet("tiny_resnet").train())
    return networks[0], networks[1]


def assert_same_step(ours: nn.Module, plain: nn.Module) -> None:
    images = torch.randn(4, 3, 16, 16)
    for network in (ours, plain):
        network(images).square().mean().backward()
    assert ours.state_dict().keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    for one, other in zip(ours.parameters(), plain.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def test_a_compiled_network_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that needs no compiler of the machine's."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call: plain_compile(call, backend=backend))
    ours, plain = pair()
    compile_network(ours)
    assert_same_step(ours, plain)
    assert len(graphs) == 1, "the trunk is one graph"


def test_a_compiler_that_fails_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        raise RuntimeError("no compiler\nand more")

    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call: plain_compile(call, backend=backend))
    ours, plain = pair()
    compile_network(ours)
    with caplog.at_level(logging.WARNING):
        assert_same_step(ours, plain)
        ours(torch.randn(2, 3, 24, 24))
    (record,) = caplog.records
    assert "SOLVER.COMPILE has no effect" in record.message and "no compiler" in record.message
    assert "\n" not in record.message
