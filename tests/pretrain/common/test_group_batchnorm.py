"""Batch norms over groups against a slow loop and against two processes; timm's norms keep their
activation when converted."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.common.sync_batchnorm import (
    AllReduceBatchNorm,
    GroupBatchNorm,
    convert_group_batchnorm,
    convert_sync_batchnorm,
)
from tests.two_processes import run_in_two

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def norm(kind: type[nn.Module], channels: int = 3) -> nn.Module:
    """With weights, biases and running statistics that are not the initial ones."""
    built = kind(channels).double()
    with torch.no_grad():
        for seed, value in enumerate([built.weight, built.bias, built.running_mean]):
            value.copy_(draw(channels, seed=10 + seed))
        built.running_var.copy_(draw(channels, seed=13).square() + 0.5)
    return built


def slow_norm(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Output, and the mean over the groups of each group's mean and unbiased variance."""
    groups, means, variances = [], [], []
    for start in range(0, len(x), size):
        channels, mean_of, variance_of = [], [], []
        for channel in range(x.shape[1]):
            values = x[start : start + size, channel]
            mean = values.sum() / values.numel()
            squares = (values - mean).square().sum()
            whitened = (values - mean) / torch.sqrt(squares / values.numel() + 1e-5)
            channels.append(weight[channel] * whitened + bias[channel])
            mean_of.append(mean.detach())
            variance_of.append(squares.detach() / (values.numel() - 1))
        groups.append(torch.stack(channels, dim=1))
        means.append(torch.stack(mean_of))
        variances.append(torch.stack(variance_of))
    return torch.cat(groups), torch.stack(means).mean(dim=0), torch.stack(variances).mean(dim=0)


@pytest.mark.parametrize("kind, shape", [(nn.BatchNorm1d, (8, 3)), (nn.BatchNorm2d, (8, 3, 4, 5))])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_groups_match_the_loop(kind: type[nn.Module], shape: tuple[int, ...], size: int) -> None:
    original, weights = norm(kind), draw(*shape, seed=1)
    ours = convert_group_batchnorm(copy.deepcopy(original), size)
    assert isinstance(ours, GroupBatchNorm)
    x, slow_x = draw(*shape).requires_grad_(), draw(*shape).requires_grad_()
    output = ours(x)
    slow, mean, variance = slow_norm(slow_x, original.weight, original.bias, size)
    torch.testing.assert_close(output, slow)
    (output * weights).sum().backward()
    (slow * weights).sum().backward()
    torch.testing.assert_close(x.grad, slow_x.grad)
    torch.testing.assert_close(ours.weight.grad, original.weight.grad)
    torch.testing.assert_close(ours.bias.grad, original.bias.grad)
    torch.testing.assert_close(ours.running_mean, 0.9 * original.running_mean + 0.1 * mean)
    torch.testing.assert_close(ours.running_var, 0.9 * original.running_var + 0.1 * variance)
    assert ours.num_batches_tracked.item() == 1
    if size == 8:  # one group is the plain batch norm
        torch.testing.assert_close(output, original(draw(*shape)))


def test_one_group_is_torchs_norm_bit_for_bit() -> None:
    original = norm(nn.BatchNorm2d)
    ours = convert_group_batchnorm(copy.deepcopy(original), 8)
    for seed in range(2):
        assert torch.equal(ours(draw(8, 3, 4, 5, seed=seed)), original(draw(8, 3, 4, 5, seed=seed)))
    for name, value in original.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_evaluation_has_no_groups() -> None:
    original = norm(nn.BatchNorm2d).eval()
    ours = convert_group_batchnorm(copy.deepcopy(original), 4)
    x = draw(5, 3, 4, 5)  # not a multiple of 4
    assert not ours.training and torch.equal(ours(x), original(x))
    assert torch.equal(ours.running_mean, original.running_mean)


def test_groups_must_divide_the_batch() -> None:
    ours = convert_group_batchnorm(norm(nn.BatchNorm1d), 4)
    with pytest.raises(ValueError, match="6 images do not split into groups of 4"):
        ours(draw(6, 3))


def test_a_norm_without_running_statistics_is_refused() -> None:
    ours = convert_group_batchnorm(nn.BatchNorm1d(3, track_running_stats=False).double(), 2)
    with pytest.raises(ValueError, match="needs running statistics"):
        ours(draw(4, 3))


def test_running_statistics_without_momentum_are_means_over_batches() -> None:
    """They equal those of torch's norm if a single group has all images."""
    original = nn.BatchNorm1d(3, momentum=None).double()
    ours = convert_group_batchnorm(copy.deepcopy(original), 6)
    for seed in range(3):
        torch.testing.assert_close(ours(draw(6, 3, seed=seed)), original(draw(6, 3, seed=seed)))
    torch.testing.assert_close(ours.running_mean, original.running_mean)
    torch.testing.assert_close(ours.running_var, original.running_var)


def test_conversion_keeps_settings_state_and_parameters() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, eps=0.1, momentum=0.3))
    net.append(nn.Sequential(nn.BatchNorm2d(4, affine=False)))
    net[1].bias.requires_grad_(False)
    net(draw(4, 3, 2, 2, dtype=torch.float32))
    state, parameters = copy.deepcopy(net.state_dict()), list(net.parameters())
    ours = convert_group_batchnorm(net, 2)
    assert (ours[1].eps, ours[1].momentum, ours[1].group_size) == (0.1, 0.3, 2)
    assert isinstance(ours[2][0], GroupBatchNorm) and ours[2][0].weight is None
    assert all(a is b for a, b in zip(ours.parameters(), parameters, strict=True))
    assert not ours[1].bias.requires_grad
    assert ours.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


def test_conversion_keeps_the_device() -> None:
    # A method is moved to its GPU before its norms are converted.
    net = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm1d(3, affine=False)).to("meta")
    state = convert_group_batchnorm(net, 2).state_dict()
    assert len(state) == 8 and all(value.is_meta for value in state.values())


def acting(channels: int = 4) -> BatchNormAct2d:
    """timm's norm with an activation that is not the identity on anything."""
    built = BatchNormAct2d(channels, act_layer=nn.SiLU)
    with torch.no_grad():
        built.weight.copy_(draw(channels, seed=3).float())
        built.bias.copy_(draw(channels, seed=4).float())
    return built


def test_timms_norms_keep_their_activation() -> None:
    original = acting()
    ours = convert_group_batchnorm(copy.deepcopy(original), 6)
    x = draw(6, 4, 3, 3).float()
    torch.testing.assert_close(ours(x), original(x), rtol=1e-6, atol=1e-6)
    assert ours.state_dict().keys() == original.state_dict().keys()
    torch.testing.assert_close(ours.eval()(x), original.eval()(x), rtol=1e-6, atol=1e-6)


def test_a_timm_network_computes_the_same_after_conversion() -> None:
    torch.manual_seed(0)
    net = timm.create_model("regnetx_002", num_classes=0)
    x = draw(4, 3, 32, 32).float()
    with torch.no_grad():
        ours = convert_group_batchnorm(copy.deepcopy(net), 4)
        assert sum(isinstance(module, GroupBatchNorm) for module in ours.modules()) > 20
        torch.testing.assert_close(ours(x), net(x), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.state_dict(), net.state_dict(), rtol=1e-3, atol=1e-4)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), acting()]
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), *norms, nn.Flatten())


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, gradient and statistics after a step of a loss that is a mean over images."""
    output = model(x)
    weights = torch.linspace(-1, 1, output.shape[1])
    ((output - weights).square() * weights.exp()).sum(dim=1).mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    means = torch.cat([b for name, b in model.named_buffers() if name.endswith("running_mean")])
    return {"output": output.detach(), "gradient": gradient, "means": means}


def half_of_the_batch(rank: int, folder: str) -> None:
    """One of two processes with 4 images: statistics of its own, then those of all."""
    mine = draw(8, 3, 5, 5, dtype=torch.float32)[rank * 4 : rank * 4 + 4]
    synced = convert_sync_batchnorm(network(), torch.device("cpu"))
    assert isinstance(synced[4], AllReduceBatchNorm)
    results = {
        name: step(DistributedDataParallel(model, broadcast_buffers=False), mine)
        for name, model in (("own", network()), ("all", synced))
    }
    torch.save(results, f"{folder}/{rank}.pt")


def test_two_processes(tmp_path: Path) -> None:
    run_in_two(half_of_the_batch, tmp_path)
    theirs = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x = draw(8, 3, 5, 5, dtype=torch.float32)
    # Plain norms on two processes are groups of 4 on one; synchronised ones are one group of 8.
    for name, size in (("own", 4), ("all", 8)):
        ours = step(convert_group_batchnorm(network(), size), x)
        output = torch.cat([part[name]["output"] for part in theirs])
        torch.testing.assert_close(output, ours["output"], **CLOSE)
        means = torch.stack([part[name]["means"] for part in theirs]).mean(dim=0)
        torch.testing.assert_close(means, ours["means"], **CLOSE)
        for part in theirs:
            torch.testing.assert_close(part[name]["gradient"], ours["gradient"], **CLOSE)
    plain = step(network(), x)
    torch.testing.assert_close(ours, plain, **CLOSE)
