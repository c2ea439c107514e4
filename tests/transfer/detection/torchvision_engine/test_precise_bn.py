"""Precise BN: equal to fvcore's in one process, pooled and the same on every rank in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fvcore.nn.precise_bn import update_bn_stats as reference_update
from torch import nn

from pretrain.common.errors import InputError
from pretrain.common.progress import keep_progress, read_progress
from pretrain.common.sync_batchnorm import AllReduceBatchNorm
from tests.two_processes import run_in_two
from transfer.detection.torchvision_engine.batchnorm import NaiveSyncBatchNorm
from transfer.detection.torchvision_engine.precise_bn import update_bn_stats


def make_net(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1), norm(2))


def make_batches(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(1 + index % 3, 3, 6 + index, 7, generator=generator) * (index + 1)
        for index in range(count)
    ]


def test_equal_to_fvcore() -> None:
    ours, theirs = make_net(), make_net()
    update_bn_stats(ours, iter(make_batches(5)), 4)
    reference_update(theirs, iter(make_batches(5)), 4)
    expected = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert ours[1].momentum == 0.1


def test_is_the_statistic_of_all_elements() -> None:
    net, batches = make_net(), make_batches(3)
    update_bn_stats(net, batches, 3)
    with torch.no_grad():
        outputs = [net[0](x).transpose(0, 1).flatten(1) for x in batches]
    everything = torch.cat(outputs, dim=1)
    torch.testing.assert_close(net[1].running_mean, everything.mean(1))
    torch.testing.assert_close(net[1].running_var, everything.var(1, unbiased=False))


def test_its_bar_knows_where_it_ends(tmp_path: Path) -> None:
    with keep_progress(tmp_path):
        update_bn_stats(make_net(), iter(make_batches(3)), 3)
    state = read_progress(tmp_path)
    assert state is not None
    assert (state.stage, state.done, state.total) == ("precise BN", 3, 3)


def test_layers_in_evaluation_stay_and_too_few_batches_are_an_error() -> None:
    net = make_net()
    net[1].eval()
    before = net[1].running_mean.clone()
    update_bn_stats(net, make_batches(2), 2)
    assert torch.equal(net[1].running_mean, before)
    assert net[4].running_mean.any()
    with pytest.raises(InputError, match="only 2 batches"):
        update_bn_stats(net, make_batches(2), 3)
    assert net[4].momentum == 0.1


NORMS = {"plain": nn.BatchNorm2d, "naive": NaiveSyncBatchNorm, "sync": AllReduceBatchNorm}


def run_process(rank: int, folder: str) -> None:
    # The sizes of both ranks' batches agree where the norm gives processes equal weight.
    for name, norm in NORMS.items():
        net = nn.Sequential(norm(3))
        update_bn_stats(net, process_batches(rank), 3)
        torch.save(net.state_dict(), Path(folder) / f"{name}{rank}.pth")


def process_batches(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(2, 3, 4, 5 + i, generator=generator) * (i + rank + 1) for i in range(3)]


def test_two_processes_pool_and_agree(tmp_path: Path) -> None:
    run_in_two(run_process, tmp_path)
    batches = process_batches(0) + process_batches(1)
    everything = torch.cat([x.transpose(0, 1).flatten(1) for x in batches], dim=1)
    for name in NORMS:
        first, second = (torch.load(tmp_path / f"{name}{rank}.pth") for rank in range(2))
        for key in ("0.running_mean", "0.running_var"):
            assert torch.equal(first[key], second[key]), (name, key)
        torch.testing.assert_close(first["0.running_mean"], everything.mean(1))
        expected = everything.var(1, unbiased=False)
        torch.testing.assert_close(first["0.running_var"], expected, msg=name)
