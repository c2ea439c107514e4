"""First-layer kernels from every format, and from checkpoints of timm's backbones."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.first_layer import read_first_layer


def test_every_format(builders: ModuleType, tmp_path: Path) -> None:
    state = builders.trained_state("tiny_resnet")
    files = builders.every_format(tmp_path, state, "tiny_resnet")
    assert len(files) == 6
    for source, file in files.items():
        layer = read_first_layer(str(file))
        assert torch.equal(layer.kernels, state["conv1.weight"]), source
        assert layer.name == ("trunk.conv1.weight" if source == "mscn" else "conv1.weight")


def test_channels_become_rgb(builders: ModuleType, tmp_path: Path) -> None:
    state = builders.trained_state("tiny_resnet")
    facts = Preprocess(channel_order="BGR").to_dict()
    file = builders.mscn(tmp_path / "bgr.pth", state, "tiny_resnet", preprocess=facts)
    assert torch.equal(read_first_layer(str(file)).kernels, state["conv1.weight"].flip(1))


@pytest.mark.parametrize(
    "model, layer, shape",
    [
        ("vit_tiny_patch16_224", "trunk.patch_embed.proj.weight", (192, 3, 16, 16)),
        ("convnext_atto", "trunk.stem.0.weight", (40, 3, 4, 4)),
    ],
)
def test_backbones_of_timm(
    builders: ModuleType, tmp_path: Path, model: str, layer: str, shape: tuple[int, ...]
) -> None:
    state = timm.create_model(model, num_classes=0).state_dict()
    file = builders.mscn(tmp_path / "checkpoint.pth", state, model)
    found = read_first_layer(str(file))
    assert found.name == layer and found.kernels.shape == shape
    assert torch.equal(found.kernels, state[layer.removeprefix("trunk.")])


def test_errors_name_the_file_once(builders: ModuleType, tmp_path: Path) -> None:
    state = builders.trained_state("tiny_resnet")
    newer = builders.mscn(tmp_path / "newer.pth", state, "tiny_resnet", version=99)
    blind = builders.mscn(tmp_path / "blind.pth", {"fc.weight": torch.zeros(2, 2)}, "x")
    damaged = builders.mscn(tmp_path / "damaged.pth", state, "tiny_resnet", schedule=None)
    torch.save({"model": [1]}, tmp_path / "other.pth")
    for file, message in (
        (newer, "newer than 1"),
        (blind, "no convolution with 3 input channels"),
        (damaged, "a damaged pretraining checkpoint"),
        (tmp_path / "other.pth", "in none of the known formats"),
        (tmp_path / "gone.pth", "no weights file"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            read_first_layer(str(file))
        assert str(caught.value).count(str(file)) == 1
