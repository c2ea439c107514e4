"""Identity, names, and values that a trained network never has."""

from __future__ import annotations

import hashlib
import json
from types import ModuleType

import pytest
import torch

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.odd_values import check_values
from transfer.checkpoints.weights import (
    Weights,
    default_name,
    facts_of,
    make_provenance,
    parse_facts,
    tensors_sha256,
)


def test_identity_against_a_plain_hash() -> None:
    state = {"b": torch.tensor([[1.5, -2.0]]), "a": torch.tensor(3.0)}
    plain = hashlib.sha256()
    plain.update(b"a ()\n" + b"\x00\x00\x40\x40")
    plain.update(b"b (1, 2)\n" + b"\x00\x00\xc0\x3f" + b"\x00\x00\x00\xc0")
    assert tensors_sha256(state) == plain.hexdigest()


def test_identity_ignores_order_memory_and_counters() -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    first = tensors_sha256({"x": image, "y": torch.ones(2)})
    other = {"y": torch.ones(2), "x": image.to(memory_format=torch.channels_last)}
    assert tensors_sha256({**other, "n.num_batches_tracked": torch.tensor(5)}) == first
    assert tensors_sha256({"x": image.reshape(3, 2, 4, 5), "y": torch.ones(2)}) != first
    assert tensors_sha256({"z": image, "y": torch.ones(2)}) != first


def test_default_name() -> None:
    def name(**known: object) -> str:
        weights = Weights({}, "resnet18", Preprocess(), make_provenance(**known))
        return default_name(weights, "runs/some.v2.pth")

    assert name(method="mscn", epochs=100) == "mscn_resnet18_100ep"
    assert name(method="mscn") == name(epochs=3) == "some.v2"
    assert name(source="random", method="random", epochs=0) == "random_resnet18"


def test_facts_survive_json(builders: ModuleType) -> None:
    state = builders.trained_state("tiny_resnet")
    weights = Weights(state, "tiny_resnet", Preprocess(), make_provenance(method="mscn"))
    assert parse_facts(json.dumps(facts_of(weights))) == facts_of(weights)
    assert parse_facts(None) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_finite_is_an_error(value: float, builders: ModuleType) -> None:
    state = builders.trained_state("tiny_resnet")
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = value
    with pytest.raises(InputError, match="NaN or infinite values in layer2.0.conv1.weight"):
        check_values(state, "file")


def test_variances(builders: ModuleType) -> None:
    state = builders.trained_state("tiny_resnet")
    assert check_values(state, "file") == ()
    state["bn1.running_var"][3] = 0
    assert "variance is 0" in check_values(state, "file")[0]
    assert "bn1.running_var" in check_values(state, "file")[0]
    state["bn1.running_var"][3] = -1e-3
    with pytest.raises(InputError, match="negative BN running variance in bn1.running_var"):
        check_values(state, "file")


def test_untrained_and_constant_are_named(builders: ModuleType) -> None:
    state = build_resnet("tiny_resnet").state_dict()
    assert "untrained" in check_values(state, "file")[0]
    state = builders.trained_state("tiny_resnet")
    state["conv1.weight"].zero_()
    assert "constant (std 0) in conv1.weight" in check_values(state, "file")[0]
