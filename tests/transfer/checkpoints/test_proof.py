"""The proof accepts correct conversions, and finds every swap and transposition that is tried."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pretrain.backbones.resnet import build_resnet
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints import proof
from transfer.checkpoints.formats.all_formats import FORMATS
from transfer.checkpoints.formats.key_format import match
from transfer.checkpoints.proof import ProofError, prove, source_network
from transfer.checkpoints.weights import Weights, make_provenance

LAYOUTS = ("detectron2", "torchvision")


def weights_of(state: dict[str, Tensor], backbone: str) -> Weights:
    return Weights(state, backbone, Preprocess(), make_provenance())


def network_of(state: dict[str, Tensor], backbone: str) -> torch.nn.Module:
    return source_network(match(FORMATS["torchvision"], state), weights_of(state, backbone))


@pytest.mark.parametrize(
    "backbone, layout",
    [  # ResNet-50 to Detectron2 is in test_convert.py
        ("tiny_resnet", "detectron2"),
        ("tiny_resnet", "torchvision"),
        ("resnet18", "detectron2"),
        ("resnet50", "torchvision"),
    ],
)
def test_right_conversions_pass(layout: str, backbone: str, builders: ModuleType) -> None:
    state = builders.trained_state(backbone)
    rows = prove(network_of(state, backbone), weights_of(state, backbone), layout)
    stages = 1 + len(build_resnet(backbone).stages)
    assert len(rows) == 2 * stages and {row.inputs for row in rows} == {"random", "photo"}
    assert all(row.passed for row in rows)


def swap(first: str, second: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, first: state[second], second: state[first]}


def transpose(name: str, *axes: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, name: state[name].transpose(*axes).contiguous()}


FAULTS = {
    "two convolutions of a block": swap("layer1.0.conv1.weight", "layer1.0.conv2.weight"),
    "two blocks": swap("layer2.1.conv1.weight", "layer2.1.conv2.weight"),
    "mean and bias": swap("bn1.running_mean", "bn1.bias"),
    "variance and weight": swap("bn1.running_var", "bn1.weight"),
    "norms of a block": swap("layer3.1.bn1.bias", "layer3.1.bn2.bias"),
    "shortcut's norm": swap("layer4.0.downsample.1.weight", "layer4.0.bn2.weight"),
    "kernel transposed": transpose("conv1.weight", 2, 3),
    "channels transposed": transpose("layer4.1.conv2.weight", 0, 1),
    "channels reversed": lambda s: {**s, "conv1.weight": s["conv1.weight"].flip(1)},
    "one value": lambda s: {**s, "layer4.1.bn2.bias": s["layer4.1.bn2.bias"] * 1.01},
}


@pytest.mark.parametrize(
    "fault, layout",
    [*((fault, "detectron2") for fault in FAULTS), ("kernel transposed", "torchvision")],
)
def test_wrong_conversions_fail(fault: str, layout: str, builders: ModuleType) -> None:
    state = builders.trained_state("resnet18")
    rows = prove(
        network_of(state, "resnet18"), weights_of(FAULTS[fault](state), "resnet18"), layout
    )
    assert any(not row.passed for row in rows if row.inputs == "random")


def test_convolutions_behind_a_zero_norm_are_proven_too(builders: ModuleType) -> None:
    with torch.random.fork_rng(devices=[]):
        state = dict(build_resnet("resnet18", zero_init_residual=True).state_dict())
    wrong = swap("layer1.0.conv1.weight", "layer1.0.conv2.weight")(state)
    network = network_of(state, "resnet18")
    rows = prove(network, weights_of(wrong, "resnet18"), "detectron2")
    failed = {row.inputs for row in rows if not row.passed}
    assert failed == {"random, zero norms set to 1"}
    assert not network.layer1[0].bn2.weight.any(), "the source network is left as it was"
    assert all(r.passed for r in prove(network, weights_of(state, "resnet18"), "detectron2"))


def test_dead_or_infinite_networks_are_not_called_equal(builders: ModuleType) -> None:
    state = builders.trained_state("tiny_resnet")
    dead = {**state, "bn1.weight": state["bn1.weight"] * 0, "bn1.bias": state["bn1.bias"] * 0}
    rows = prove(network_of(dead, "tiny_resnet"), weights_of(dead, "tiny_resnet"), "detectron2")
    assert rows[0].stage == "stem" and rows[0].relative == math.inf
    huge = {**state, "conv1.weight": state["conv1.weight"] * 1e38}
    rows = prove(network_of(huge, "tiny_resnet"), weights_of(huge, "tiny_resnet"), "detectron2")
    assert not all(row.passed for row in rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_shapes_are_held(
    layout: str, builders: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = builders.trained_state("tiny_resnet")
    network = network_of(state, "tiny_resnet")
    faults = (
        lambda s: {name: tensor for name, tensor in s.items() if "conv1.weight" not in name},
        lambda s: {**s, "foreign.weight": torch.zeros(1)},
        lambda s: {
            n: t.transpose(0, 1) if n.endswith("1.weight") and t.dim() == 4 else t
            for n, t in s.items()
        },
    )
    to_layout = proof.to_layout
    for fault in faults:
        monkeypatch.setattr(proof, "to_layout", lambda s, name, f=fault: f(to_layout(s, name)))
        with pytest.raises(ProofError):
            prove(network, weights_of(state, "tiny_resnet"), layout)


def test_photo_goes_through_the_preprocessing() -> None:
    plain = dict(proof.proof_inputs(weights_of({}, "tiny_resnet")))["photo"]
    filtered = Weights({}, "tiny_resnet", Preprocess(highpass=HighPass(11, 5.0)), {})
    photo = dict(proof.proof_inputs(filtered))["photo"]
    assert plain.shape == photo.shape == (1, 3, 96, 128)
    assert photo.mean().abs() < 0.05 < plain.std() and not torch.equal(plain, photo)


def test_the_photo_is_as_large_as_a_network_wants() -> None:
    """ViTs of 384 and 518 px are proven on inputs of these sizes."""
    small, large = proof.photo(300, 300), proof.photo(518, 518)
    assert large.shape == (3, 518, 518) and torch.equal(large[:, :300, :300], small)
    assert large[:, 400:].float().std() > 20, "mirrored, not filled"
    weights = weights_of({}, "vit_tiny_patch14_518")
    assert all(x.shape == (1, 3, 518, 518) for _, x in proof.proof_inputs(weights))
