"""Synchronised batch norm over torch's kernels: against torch's own module, and against plain batch
norm of the global batch.

The kernels exist on GPUs only. In the two processes of this test, slow versions in plain operations
take their place on the CPU, for our module and for torch's alike (`tests/batchnorm_kernels.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as TorchsFunction
from torch.nn.parallel import DistributedDataParallel

from pretrain.common.sync_batchnorm import (
    AllReduceBatchNorm,
    KernelBatchNorm,
    convert_sync_batchnorm,
)
from tests.batchnorm_kernels import give_cpus_the_kernels
from tests.two_processes import run_in_two

CUDA = torch.device("cuda")
SHAPES = {"rows": (6, 3), "images": (6, 3, 4, 5), "channels last": (6, 3, 4, 5)}


class TorchsNorm(nn.BatchNorm2d):
    """nn.SyncBatchNorm without its refusal of CPU tensors."""

    def _check_input_dim(self, x: Tensor) -> None:
        return

    def forward(self, x: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        group = (dist.group.WORLD, dist.get_world_size())
        return TorchsFunction.apply(
            x, self.weight, self.bias, *running, self.eps, self.momentum, *group
        )


class GlobalNorm(nn.BatchNorm2d):
    """Plain batch norm, of rows too."""

    def _check_input_dim(self, x: Tensor) -> None:
        return


def images(shape: tuple[int, ...], kind: str) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = 3 * x + torch.arange(3.0, dtype=torch.float64).view([1, 3] + [1] * (x.dim() - 2))
    return x.contiguous(memory_format=torch.channels_last) if kind == "channels last" else x


def outcome(norm: nn.Module, x: Tensor, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Output, gradients and statistics after two steps; the loss is a sum, so that gradients of
    parts of the batch add up."""
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.linspace(0.5, 2.0, 3))
    for scale in (1.0, 2.0):
        given = (scale * x[rows]).requires_grad_()
        weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view(x.shape)[rows]
        output = norm(given)
        (output.square() * weights).sum().backward()
    found = {"output": output.detach(), "input gradient": given.grad}
    found.update({f"gradient of {n}": p.grad for n, p in norm.named_parameters()})
    return {**found, **norm.state_dict()}


# Unequal parts, too: the counts go with the statistics.
PARTS = {"equal": (slice(0, 3), slice(3, 6)), "unequal": (slice(0, 2), slice(2, 6))}


def norms_of_a_part(rank: int, folder: str) -> None:
    library = give_cpus_the_kernels()
    results: dict[Any, dict[str, Tensor]] = {}
    for kind, shape in SHAPES.items():
        x = images(shape, kind)
        for split, parts in PARTS.items():
            for affine in (True, False):
                options = {"affine": affine, "dtype": torch.float64}
                ours = convert_sync_batchnorm(GlobalNorm(3, **options), CUDA)
                assert type(ours) is KernelBatchNorm
                key = f"{kind}, {split}, {affine}"
                results[f"ours, {key}"] = outcome(ours, x, parts[rank])
                results[f"torch's, {key}"] = outcome(TorchsNorm(3, **options), x, parts[rank])
    torch.save(results, f"{folder}/{rank}.pt")
    library._destroy()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("parts")
    run_in_two(norms_of_a_part, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("split", PARTS)
@pytest.mark.parametrize("kind", SHAPES)
def test_two_processes(
    kind: str, split: str, affine: bool, parts: list[dict[str, dict[str, Tensor]]]
) -> None:
    """Each process equals torch's module; together they equal plain norm of the full batch."""
    key = f"{kind}, {split}, {affine}"
    for part in parts:
        ours, theirs = part[f"ours, {key}"], part[f"torch's, {key}"]
        ours.pop("num_batches_tracked"), theirs.pop("num_batches_tracked")
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    whole = outcome(GlobalNorm(3, affine=affine, dtype=torch.float64), images(SHAPES[kind], kind))
    close = {"rtol": 1e-6, "atol": 1e-6}
    for name, expected in whole.items():
        values = [part[f"ours, {key}"].get(name) for part in parts]
        if name in ("output", "input gradient"):
            torch.testing.assert_close(torch.cat(values), expected, **close)
        elif name.startswith("gradient"):
            torch.testing.assert_close(values[0] + values[1], expected, **close)
        elif name != "num_batches_tracked":
            torch.testing.assert_close(values[0], expected, **close)
            torch.testing.assert_close(values[1], expected, **close)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    act = BatchNormAct2d(4, act_layer=nn.SiLU)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), act, nn.Flatten(), nn.LazyBatchNorm1d())


def trained_network(rank: int, folder: str) -> None:
    """A step of a network under DDP in bf16 and float32, by the kernels' way and by all-reduce."""
    library = give_cpus_the_kernels()
    x = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(rank))
    states, kinds = [], (KernelBatchNorm, AllReduceBatchNorm)
    for device, kind in zip((CUDA, torch.device("cpu")), kinds):
        net = network()
        net(x)  # the lazy layer takes its size
        state = net.state_dict()
        net = convert_sync_batchnorm(net, device)
        assert net.state_dict().keys() == state.keys() and type(net[1]) is type(net[3]) is kind
        wrapped = DistributedDataParallel(net, broadcast_buffers=False)
        (wrapped(x).square() * torch.linspace(0, 1, 64)).sum().backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        states.append([*gradients, *net.state_dict().values(), net.eval()(x).detach()])
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-5)
    library._destroy()


@pytest.mark.slow
def test_a_network_under_ddp_is_that_of_all_reduce(tmp_path: Path) -> None:
    run_in_two(trained_network, tmp_path)


def test_one_process_keeps_its_norms() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3))
    assert convert_sync_batchnorm(net, CUDA) is net and type(net[0]) is nn.BatchNorm2d
