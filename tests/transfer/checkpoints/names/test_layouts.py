"""The name maps of ResNets, compared with independent versions of the same tables."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
import torchvision
from torch import nn

from tests.transfer.checkpoints.formats_foreign import modules_in_order
from tests.transfer.checkpoints.test_key_lists import LISTS
from transfer.checkpoints.names.layouts import to_layout
from transfer.checkpoints.names.resnet import (
    from_detectron2,
    from_hf,
    from_numeric,
    to_detectron2,
    to_hf,
    to_numeric,
)
from transfer.checkpoints.networks.architectures import expected_shapes
from transfer.checkpoints.originals.resnet import SIZES, Detectron2ResNet


@pytest.mark.parametrize("backbone", SIZES)
def test_names_both_ways(backbone: str, builders: ModuleType) -> None:
    shapes = expected_shapes(backbone, counters=True)
    theirs = {name: to_detectron2(name) for name in shapes}
    assert theirs == {name: builders.detectron2_name(name) for name in shapes}
    assert [from_detectron2(name) for name in theirs.values()] == list(shapes)
    with torch.device("meta"):
        rebuilt = Detectron2ResNet(backbone).state_dict()
    shapes_there = {theirs[name]: shape for name, shape in shapes.items()}
    assert shapes_there == {name: tuple(tensor.shape) for name, tensor in rebuilt.items()}


@pytest.mark.parametrize(
    "name",
    ["fc.weight", "layer5.0.conv1.weight", "layer1.0.conv4.weight", "layer1.conv1.weight", "x"],
)
def test_outside_the_table(name: str) -> None:
    assert to_detectron2(name) is None


@pytest.mark.parametrize(
    "name",
    ["stem.fc.weight", "res1.0.conv1.weight", "res2.0.bn1.weight", "conv1.weight", "res6.0.x"],
)
def test_outside_the_table_back(name: str) -> None:
    assert from_detectron2(name) is None


def test_numbers_are_those_of_a_sequential_of_the_children() -> None:
    with torch.device("meta"):
        network = torchvision.models.resnet50()
    theirs = list(nn.Sequential(*list(network.children())[:-1]).state_dict())
    names = [name for name in network.state_dict() if not name.startswith("fc.")]
    assert [to_numeric(name) for name in names] == theirs
    assert [from_numeric(name) for name in theirs] == names


def test_hugging_faces_names_are_in_the_order_of_its_own_class() -> None:
    """The class has a shortcut before its block's layers, and a norm after its convolution."""
    ((_, theirs),) = LISTS["hf ResNetModel"]["parts"]
    with torch.device("meta"):
        shapes = torchvision.models.resnet50().state_dict()
    names = [
        f"{module}.{leaf}"
        for pair in modules_in_order()
        for module in pair
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        if f"{module}.{leaf}" in shapes
    ]
    assert [to_hf(name) for name in names] == list(theirs)
    assert [from_hf(name) for name in theirs] == names
    assert [list(shapes[name].shape) for name in names] == [shape for shape, *_ in theirs.values()]


@pytest.mark.parametrize("back", [from_hf, from_numeric, to_hf, to_numeric])
def test_names_outside_the_other_tables(back: Callable[[str], str | None]) -> None:
    outside = {
        from_hf: "conv1.weight embedder.embedder.conv.weight encoder.stages.4.layers.0.shortcut."
        "convolution.weight encoder.stages.0.layers.0.layer.3.convolution.weight",
        from_numeric: "2.weight conv1.weight 0 8.0.conv1.weight",
        to_hf: "fc.weight layer5.0.conv1.weight layer1.0.conv4.weight layer1.0.downsample.2.bias",
        to_numeric: "fc.weight conv1 layer5.0.conv1.weight 0.weight",
    }
    assert [back(name) for name in outside[back].split()] == [None] * 4


def test_tensors_are_shared() -> None:
    tensor = torch.zeros(2)
    assert to_layout({"bn1.bias": tensor}, "detectron2")["stem.conv1.norm.bias"] is tensor
