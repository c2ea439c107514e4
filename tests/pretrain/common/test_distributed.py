"""Two gloo processes against one process with the complete batch."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from pretrain.common import distributed
from pretrain.common.distributed import from_main
from pretrain.common.errors import InputError
from pretrain.common.sync_batchnorm import convert_sync_batchnorm
from tests.two_processes import run_in_two

SIZES = (3, 5)  # rows of each process: batches may differ


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(6))


def inputs() -> torch.Tensor:
    return torch.randn(sum(SIZES), 3, 5, 5, generator=torch.Generator().manual_seed(1))


def ready_network() -> nn.Module:
    net = network()
    net(inputs()[:2])  # materialise the lazy layer, and move the running statistics
    return net


def batchnorm_worker(rank: int, folder: str) -> None:
    net = convert_sync_batchnorm(ready_network(), torch.device("cpu"))
    part = inputs().split(SIZES)[rank]
    net(part).square().sum().backward()
    grads = [parameter.grad.clone() for parameter in net.parameters()]
    for grad in grads:
        dist.all_reduce(grad)
    if rank == 0:
        torch.save({"grads": grads, "state": net.state_dict()}, f"{folder}/out.pth")


def test_batchnorm_statistics_and_gradients_are_global(tmp_path: Path) -> None:
    run_in_two(batchnorm_worker, tmp_path)
    out = torch.load(tmp_path / "out.pth", weights_only=True)
    net = ready_network()
    net(inputs()).square().sum().backward()
    for ours, whole in zip(out["grads"], net.parameters()):
        torch.testing.assert_close(ours, whole.grad, rtol=1e-4, atol=1e-5)
    assert out["state"].keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(out["state"][name], value, rtol=1e-5, atol=1e-6)


def distribute_worker() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch has two names for the option about buffers
        net = distributed.distribute(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    net(torch.randn(4, 2) + 10 * distributed.rank()).sum().backward()
    net.eval()
    net(torch.randn(4, 2))  # a broadcast of buffers would come before this pass
    linear, norm = net.module
    return {"shared": linear.weight.grad, "own": norm.running_mean}


def gather_worker(rank: int, folder: str) -> None:
    rows = (torch.arange(6.0).view(2, 3) + 10 * rank).requires_grad_()
    everything = distributed.gather_with_grad(rows)
    weights = torch.arange(12.0).view(4, 3) * (rank + 1)
    (everything * weights).sum().backward()
    out = {
        "all": everything.detach(),
        "grad": rows.grad,
        "objects": distributed.gather_objects(rank),
        "items": distributed.gather_items([rank, 7] if rank else [rank]),
        **distribute_worker(),
    }
    torch.save(out, f"{folder}/{rank}.pth")


def test_gather_and_distribute_share_the_gradients(tmp_path: Path) -> None:
    run_in_two(gather_worker, tmp_path)
    for rank in range(2):
        out = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        rows = torch.arange(6.0).view(2, 3)
        assert torch.equal(out["all"], torch.cat([rows, rows + 10]))
        expected = 3 * torch.arange(12.0).view(4, 3)[2 * rank : 2 * rank + 2]
        assert torch.equal(out["grad"], expected)
        assert out["objects"] == [0, 1] and out["items"] == [0, 1, 7]
    one, two = (torch.load(tmp_path / f"{rank}.pth", weights_only=True) for rank in range(2))
    assert torch.equal(one["shared"], two["shared"]) and not torch.equal(one["own"], two["own"])


def test_single_process_is_the_identity() -> None:
    rows = torch.ones(2, 2, requires_grad=True)
    assert distributed.gather_with_grad(rows) is rows
    net = nn.Sequential(nn.BatchNorm1d(2))
    assert convert_sync_batchnorm(net, torch.device("cpu")) is net
    assert distributed.distribute(net) is net
    assert distributed.gather_items([1, 2]) == [1, 2]


def test_seeds_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = []
    for seed in (3, 3, 4, 2**40):  # numpy takes 32 bits
        distributed.seed_everything(seed)
        draws.append((torch.rand(2).tolist(), np.random.rand(2).tolist()))
    assert draws[0] == draws[1] and draws[0][0] != draws[2][0] and draws[0][1] != draws[2][1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 5)
    assert distributed.process_device() == torch.device("cuda", 5)
    assert distributed.process_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert distributed.process_device("cuda") == torch.device("cpu")


@pytest.mark.parametrize(
    "present, remedy",
    [
        (0, "no GPU that torch can use; leave the option out to use the CPU, or start CPU pro"),
        (2, "2; give at most 2, or start CPU processes with torchrun --nproc-per-node 64"),
    ],
)
def test_too_few_gpus_is_one_clear_line(
    present: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: present)
    with pytest.raises(InputError, match=f"--num-gpus 64: this machine has {remedy}"):
        distributed.check_gpus(64)
    distributed.check_gpus(1)
    with pytest.raises(InputError, match="give 1 or more"):
        distributed.check_gpus(0)


def share(rank: int, folder: str) -> None:
    made: list[int] = []

    def make() -> str:
        made.append(rank)
        return "made by the main process"

    def refuse() -> str:
        raise InputError(f"refused in process {rank}")

    results = [from_main(None, make), from_main("of 1" if rank else None, make)]
    results += [from_main("of 0" if rank == 0 else None, refuse), from_main(f"own {rank}", refuse)]
    try:
        from_main(None, refuse)
    except InputError as error:
        results.append(str(error))
    torch.save((results, made), f"{folder}/{rank}.pt")


def test_what_the_main_process_made_is_shared(tmp_path: Path) -> None:
    run_in_two(share, tmp_path)
    for rank in (0, 1):
        results, made = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        wanted = ["made by the main process"] * 2 + ["of 0", f"own {rank}", "refused in process 0"]
        assert results == wanted
        assert made == ([0, 0] if rank == 0 else [])
    assert from_main(None, lambda: "alone") == "alone"


def test_a_device_is_what_it_says_or_refused() -> None:
    assert distributed.process_device("cpu").type == "cpu"
    assert distributed.process_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    for kind in ("mps", "cuda:1", "gpu"):
        with pytest.raises(InputError, match=f"device '{kind}' is not supported; set cuda"):
            distributed.process_device(kind)
