"""Norm layers: both forms of FrozenBN, freezing, naiveSyncBN over two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pretrain.common.errors import InputError
from pretrain.common.sync_batchnorm import AllReduceBatchNorm, KernelBatchNorm
from tests.two_processes import run_in_two
from transfer.detection.torchvision_engine.batchnorm import (
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    freeze,
    make_norm,
    use_kernels,
)


def random_frozen(channels: int) -> FrozenBatchNorm2d:
    generator = torch.Generator().manual_seed(0)
    layer = FrozenBatchNorm2d(channels)
    for name in ("weight", "bias", "running_mean"):
        getattr(layer, name).copy_(torch.randn(channels, generator=generator))
    layer.running_var.copy_(torch.rand(channels, generator=generator) + 0.5)
    return layer


def test_frozen_without_a_gradient_is_batch_norm_bit_for_bit() -> None:
    layer, x = random_frozen(5), torch.randn(2, 5, 4, 4)
    reference = nn.BatchNorm2d(5).eval()
    reference.load_state_dict(layer.state_dict(), strict=False)
    assert torch.equal(layer(x), reference(x).detach())


def test_frozen_with_a_gradient_is_scale_and_shift_bit_for_bit() -> None:
    layer, x = random_frozen(5), torch.randn(2, 5, 4, 4, requires_grad=True)
    scale = layer.weight * (layer.running_var + 1e-5).rsqrt()
    shift = layer.bias - layer.running_mean * scale
    expected = x * scale[None, :, None, None] + shift[None, :, None, None]
    assert torch.equal(layer(x), expected)
    torch.testing.assert_close(layer(x), layer(x.detach()), rtol=1e-5, atol=1e-5)
    assert list(layer.parameters()) == []


def test_fresh_frozen_is_the_identity() -> None:
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(FrozenBatchNorm2d(5)(x), x)
    assert "num_batches_tracked" not in FrozenBatchNorm2d(5).state_dict()


def test_freeze_keeps_the_function_and_stops_training() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    for _ in range(3):
        net(torch.randn(2, 3, 5, 5))
    x = torch.randn(2, 3, 5, 5)
    expected, keys = net.eval()(x).detach(), set(net.state_dict())
    freeze(net.train())
    assert torch.equal(net(x), expected)
    assert set(net.state_dict()) == keys
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_device_of_the_config_chooses_the_synchronising_layer() -> None:
    net = nn.Sequential(nn.Sequential(make_norm("SyncBN", 4)), make_norm("BN", 4))
    weight, keys = net[0][0].weight, set(net.state_dict())
    use_kernels(net, torch.device("cpu"))
    assert type(net[0][0]) is AllReduceBatchNorm
    use_kernels(net, torch.device("cuda"))
    assert type(net[0][0]) is KernelBatchNorm and type(net[1]) is nn.BatchNorm2d
    assert net[0][0].weight is weight and set(net.state_dict()) == keys


def test_names() -> None:
    assert make_norm("", 32) is None
    assert isinstance(make_norm("GN", 64), nn.GroupNorm)
    assert type(make_norm("naiveSyncBN", 4)) is NaiveSyncBatchNorm
    with pytest.raises(InputError, match="BN"):
        make_norm("SynchBN", 4)


def test_naive_sync_in_one_process_is_batch_norm() -> None:
    x = torch.randn(3, 4, 5, 5)
    ours, reference = NaiveSyncBatchNorm(4), nn.BatchNorm2d(4)
    assert torch.equal(ours(x), reference(x))
    assert torch.equal(ours.running_var, reference.running_var)


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, generator=generator) for shape in ((2, 3, 4, 4), (1, 3, 5, 6))]


def run_process(rank: int, folder: str) -> None:
    torch.manual_seed(0)
    layer = NaiveSyncBatchNorm(3)
    nn.init.uniform_(layer.weight)
    x = batches()[rank].requires_grad_()
    y = layer(x)
    (y.square() * torch.arange(y.numel()).view_as(y)).sum().backward()
    found = {"y": y.detach(), "grad": x.grad, "weight_grad": layer.weight.grad}
    torch.save({**found, **layer.state_dict()}, Path(folder) / f"{rank}.pth")


def test_naive_sync_over_two_processes(tmp_path: Path) -> None:
    run_in_two(run_process, tmp_path)
    found = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    torch.manual_seed(0)
    weight = nn.init.uniform_(torch.empty(3)).requires_grad_()
    inputs = [x.double().requires_grad_() for x in batches()]
    # Each process counts the same, though one has 32 values per channel and the other 30.
    mean = sum(x.mean(dim=(0, 2, 3)) for x in inputs) / 2
    square = sum(x.square().mean(dim=(0, 2, 3)) for x in inputs) / 2
    var = square - mean.square()
    loss = 0
    for rank, x in enumerate(inputs):
        shape = (1, 3, 1, 1)
        y = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * weight.view(shape)
        torch.testing.assert_close(found[rank]["y"], y.float(), rtol=1e-4, atol=1e-5)
        loss = loss + (y.square() * torch.arange(y.numel()).view_as(y)).sum()
    loss.backward()
    for rank, x in enumerate(inputs):
        torch.testing.assert_close(found[rank]["grad"], x.grad.float(), rtol=1e-3, atol=1e-2)
        expected = 0.9 + 0.1 * var.detach().float()  # biased
        torch.testing.assert_close(found[rank]["running_var"], expected)
        torch.testing.assert_close(found[rank]["running_mean"], 0.1 * mean.detach().float())
    total = found[0]["weight_grad"] + found[1]["weight_grad"]
    torch.testing.assert_close(total, weight.grad, rtol=1e-3, atol=1e-2)
