"""The name map, compared with an independent version of the same table."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from transfer.checkpoints.names.layouts import to_layout
from transfer.checkpoints.names.resnet import from_detectron2, to_detectron2
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


def test_tensors_are_shared() -> None:
    tensor = torch.zeros(2)
    assert to_layout({"bn1.bias": tensor}, "detectron2")["stem.conv1.norm.bias"] is tensor
