"""Joint-embedding methods built from the same parts: MSCN's limit case, pairs, batch statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import build_resnet
from pretrain.losses.similarity import nt_xent
from pretrain.methods.mscn import online_branch, pairing_of
from pretrain.methods.pairs import (
    all_pairs,
    both_directions,
    cross_pairs,
    one_direction,
    views_in,
)
from pretrain.methods.simclr import SimCLR


def parts() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    trunk = build_resnet("tiny_resnet")
    return trunk, build_projector(trunk.out_dim, hidden_dim=16, out_dim=8)


def views(count: int, images: int = 4) -> list[Tensor]:
    return list(torch.randn(count, images, 3, 16, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("joint", [True, False])
def test_the_loss_is_the_mean_of_its_pairs(joint: bool) -> None:
    trunk, projector = parts()
    method = SimCLR(trunk, projector, temperature=0.2, joint_forward=joint)
    slow_trunk, slow_projector = copy.deepcopy(trunk), copy.deepcopy(projector)
    images, branches = views(3), [0, 1, 1]
    passes = [[0, 1, 2]] if joint else [[0], [1, 2]]
    z: dict[int, Tensor] = {}
    for group in passes:
        rows = slow_projector(slow_trunk(torch.cat([images[v] for v in group])))
        z.update(zip(group, rows.split(4)))
    expected = (nt_xent(z[0], z[1], 0.2) + nt_xent(z[0], z[2], 0.2)) / 2
    outcome = method(images, branches)
    torch.testing.assert_close(outcome["loss"], expected)
    assert outcome["features"].shape == (4, 128) and not outcome["features"].requires_grad
    torch.testing.assert_close(outcome["terms"]["nt_xent"], expected.detach())


def test_passes_per_branch_keep_the_order_of_views() -> None:
    trunk, projector = parts()
    method = SimCLR(trunk, projector, temperature=0.2, joint_forward=False).eval()
    images = views(3)
    with torch.no_grad():
        z = [projector(trunk(view)) for view in images]
        expected = (nt_xent(z[1], z[0], 0.2) + nt_xent(z[1], z[2], 0.2)) / 2
        loss = method(images, [1, 0, 1])["loss"]
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_pairs() -> None:
    assert cross_pairs([0, 1, 1]) == [(0, 1), (0, 2)]
    assert cross_pairs([1, 0, 0, 1]) == [(1, 0), (1, 3), (2, 0), (2, 3)]
    assert all_pairs([0, 1, 1]) == [(0, 1), (0, 2), (1, 2)]
    assert all_pairs([0, 2, 1]) == cross_pairs([0, 2, 1]) == [(0, 2)], "focal views are in none"


def test_directions() -> None:
    pairs = [(0, 1), (0, 2)]
    assert both_directions(pairs) == [(0, 1), (1, 0), (0, 2), (2, 0)]
    assert one_direction(pairs, [0, 1, 1], online=0) == pairs
    assert one_direction(pairs, [0, 1, 1], online=1) == [(1, 0), (2, 0)]
    inside = [(0, 1), (0, 2), (1, 2)]
    assert one_direction(inside, [0, 1, 1], online=1) == [(1, 0), (2, 0), (1, 2)]
    assert views_in([(2, 0), (1, 0), (2, 1)], 0) == [1, 2]


def test_the_more_masked_branch_is_online_in_mscn_only() -> None:
    assert online_branch("mscn", (0.5, 1.0)) == 1
    assert online_branch("mscn", (1.0, 0.5)) == online_branch("mscn", (1.0, 1.0)) == 0
    assert online_branch("moco_v2", (0.5, 1.0)) == 0
    assert pairing_of("mscn", "all") is all_pairs and pairing_of("simclr", "all") is cross_pairs


def test_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair"):
        SimCLR(*parts())(views(2), [0, 0])
