"""SimCLR and MSCN: equality where they must be equal, pairs, batch statistics, and slow
references."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from pretrain.backbones.heads import build_projector
from pretrain.backbones.resnet import build_backbone
from pretrain.losses.similarity import nt_xent
from pretrain.methods.mscn import MSCN, NTXent, all_pairs, cross_pairs
from pretrain.methods.simclr import SimCLR
from pretrain.methods.table import METHODS


def parts() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    trunk = build_backbone("tiny_resnet")
    return trunk, build_projector(trunk.out_dim, hidden_dim=16, out_dim=8)


def views(count: int, images: int = 4) -> Tensor:
    return torch.randn(count, images, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("joint", [True, False])
def test_mscn_of_two_views_is_simclr_bit_for_bit(joint: bool) -> None:
    simclr = SimCLR(*parts(), temperature=0.2, joint_forward=joint)
    mscn = MSCN(*parts(), NTXent(0.2), joint_forward=joint)
    outcomes = [method(views(2), [0, 1]) for method in (simclr, mscn)]
    for outcome in outcomes:
        outcome["loss"].backward()
    assert torch.equal(outcomes[0]["loss"], outcomes[1]["loss"])
    assert torch.equal(outcomes[0]["features"], outcomes[1]["features"])
    for ours, theirs in zip(simclr.parameters(), mscn.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
    assert simclr.state_dict().keys() == mscn.state_dict().keys()


@pytest.mark.parametrize("joint", [True, False])
def test_mscn_is_the_mean_of_its_pairs(joint: bool) -> None:
    trunk, projector = parts()
    method = MSCN(trunk, projector, NTXent(0.2), joint_forward=joint)
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
    assert outcome["features"].shape == (3, 4, 128) and not outcome["features"].requires_grad
    torch.testing.assert_close(outcome["terms"]["nt_xent"], expected.detach())


def test_passes_per_branch_keep_the_order_of_views() -> None:
    trunk, projector = parts()
    method = MSCN(trunk, projector, NTXent(0.2), joint_forward=False).eval()
    with torch.no_grad():
        mixed = method(views(3), [1, 0, 1])["features"]
        for view, features in zip(views(3), mixed):
            torch.testing.assert_close(trunk(view), features, rtol=1e-4, atol=1e-5)


def test_pairs() -> None:
    assert cross_pairs([0, 1, 1]) == [(0, 1), (0, 2)]
    assert cross_pairs([1, 0, 0, 1]) == [(1, 0), (1, 3), (2, 0), (2, 3)]
    assert all_pairs([0, 1, 1]) == [(0, 1), (0, 2), (1, 2)]


def test_wrong_numbers_of_views_are_refused() -> None:
    with pytest.raises(ValueError, match="compares 2 views, got 3"):
        SimCLR(*parts())(views(3), [0, 1, 1])
    with pytest.raises(ValueError, match="no pair of views"):
        MSCN(*parts(), NTXent(0.1))(views(2), [0, 0])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_its_backbone_under_trunk(name: str) -> None:
    trunk, projector = parts()
    extra = (NTXent(0.1),) if name == "mscn" else ()
    method = METHODS[name](trunk, projector, *extra)
    state = method.state_dict()
    found = {key.removeprefix("trunk.") for key in state if key.startswith("trunk.")}
    assert method.trunk is trunk and found == set(trunk.state_dict())
