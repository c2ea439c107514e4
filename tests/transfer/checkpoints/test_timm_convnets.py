"""Networks of timm that are read by their name, from each place that can state it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.networks.timm_convnets import is_timm_convnet
from transfer.checkpoints.read import read_weights

NAME = "regnetx_002"


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """timm's own, with a classifier and norms as after training."""
    torch.manual_seed(0)
    net = timm.create_model(NAME, num_classes=7).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.data.uniform_(0.5, 1.5)
            module.running_mean.normal_(0, 0.1)
    return net


@pytest.fixture(scope="module")
def state(network: torch.nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def test_names() -> None:
    for name in ("resnext101_32x16d", "resnet50d", "regnety_016", "efficientnet_b0", "seresnet50"):
        assert is_timm_convnet(name)
    for name in (
        "resnet50",
        "resnext50_32x4d",
        "vit_tiny_patch16_224",
        "convnext_tiny",
        "densenet121",
        "nothing",
    ):
        assert not is_timm_convnet(name)


def hub(folder: Path, state: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("place", ["hub", "training", "ours", "asked", "averaged"])
def test_computes_what_timm_computes(
    place: str, network: torch.nn.Module, state: dict, tmp_path: Path, builders: ModuleType
) -> None:
    asked, path = None, tmp_path / "x.pth"
    if place == "hub":
        stated = {"mean": [0.1] * 3, "std": [0.2] * 3}
        path = hub(tmp_path / "a", state, architecture=NAME, pretrained_cfg=stated)
    elif place == "training":
        inner = {f"module.{key}": value for key, value in state.items()}
        torch.save({"arch": NAME, "epoch": 3, "state_dict": inner}, path)
    elif place == "averaged":
        other = {key: torch.zeros_like(value) for key, value in state.items()}
        torch.save({"arch": NAME, "state_dict": other, "state_dict_ema": state}, path)
    elif place == "ours":
        trunk = {key: value for key, value in state.items() if not key.startswith("head.fc")}
        path = builders.mscn(path, trunk, NAME)
    else:
        torch.save(state, path)
        asked = NAME
    weights = read_weights(str(path), backbone=asked)
    assert weights.backbone == NAME
    assert weights.provenance["source"] == ("mscn" if place == "ours" else "timm_convnet")
    left = [line for line in weights.account.notes if "`state_dict` is left out" in line]
    assert len(left) == (place == "averaged")
    if place == "hub":
        assert weights.preprocess.mean == (0.1, 0.1, 0.1)
    images = torch.rand(2, 3, 64, 48)
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
    assert torch.equal(build_frozen_backbone(weights)(images), expected)


def test_converted_and_back(state: dict, tmp_path: Path) -> None:
    source = hub(tmp_path / "a", state, architecture=NAME)
    report = check(str(source), [".pth", ".safetensors", ".pkl"])
    assert list(report.proofs) == ["timm"] and not report.failures
    for suffix in (".pth", ".safetensors"):
        write_proven(report, tmp_path / f"out{suffix}")
        again = read_weights(str(tmp_path / f"out{suffix}"))
        assert (again.sha256, again.backbone) == (report.weights.sha256, NAME)
    with pytest.raises(InputError, match="a regnetx_002 is not written for Detectron2"):
        check(str(source), [".pkl"])


def test_a_damaged_file_names_the_tensor(state: dict, tmp_path: Path) -> None:
    for key in ("stem.conv.weight", "s1.b1.conv2.bn.running_var", "s4.b7.conv3.conv.weight"):
        lost = {name: value for name, value in state.items() if name != key}
        torch.save(lost, tmp_path / "lost.pth")
        with pytest.raises(InputError, match=f"not a complete {NAME} .*1 missing: {key}"):
            read_weights(str(tmp_path / "lost.pth"), backbone=NAME)
        torch.save({**lost, f"{key}x": state[key]}, tmp_path / "more.pth")
        with pytest.raises(InputError, match=f"1 unexplained: {key}x"):
            read_weights(str(tmp_path / "more.pth"), backbone=NAME)


def test_without_a_name_the_way_out_is_told(state: dict, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(InputError, match="it is a RegNet .*timm:NAME"):
        read_weights(str(tmp_path / "bare.pth"))


def test_another_network_is_not_taken_for_the_one_that_is_asked_for(
    tmp_path: Path, builders: ModuleType
) -> None:
    torch.save(builders.trained_state("tiny_resnet"), tmp_path / "r.pth")
    with pytest.raises(InputError, match=f"r.pth is a tiny_resnet, but a {NAME} is needed"):
        read_weights(str(tmp_path / "r.pth"), backbone=NAME)


def test_networks_with_equal_tensors_are_told_apart_by_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain, blurred = (timm.create_model(name).eval() for name in ("resnet18", "resnet18d"))
    assert plain.state_dict().keys() != blurred.state_dict().keys()
    one = timm.create_model("efficientnet_lite0", num_classes=0).eval()
    other = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    other.load_state_dict(one.state_dict())
    images = torch.rand(1, 3, 64, 64)
    outputs = []
    for name, net in (("efficientnet_lite0", one), ("tf_efficientnet_lite0", other)):
        folder = hub(tmp_path / name, one.state_dict(), architecture=name)
        with torch.no_grad():
            outputs.append(build_frozen_backbone(read_weights(str(folder)))(images))
            assert torch.equal(outputs[-1], net(images))
    assert not torch.allclose(*outputs)


def test_the_name_of_a_file_tells_of_a_network_with_the_same_tensors(tmp_path: Path) -> None:
    """Nothing in resnetblur18's file says that it filters before each stride, but timm's name."""
    torch.manual_seed(0)
    net = timm.create_model("resnetblur18", num_classes=0).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net(images)
    for name, told in (
        ("resnetblur18-84f4748f", True),
        ("timm_ResNetBlur18_e100", True),
        ("resnetblur50", False),  # its shapes are different: the name is of something else
        ("simclr_resnet18", False),
        ("checkpoint_0100", False),
    ):
        torch.save(net.state_dict(), tmp_path / f"{name}.pth")
        weights = read_weights(str(tmp_path / f"{name}.pth"))
        assert weights.backbone == "resnet18"
        lines = [line for line in weights.warnings if "the file's name says resnetblur18" in line]
        assert len(lines) == told, name
        assert all("give it as timm:resnetblur18" in line for line in lines)
        assert not torch.allclose(build_frozen_backbone(weights)(images), expected)
    # the remedy that the warning names
    config = {"architecture": "resnetblur18"}
    folder = hub(tmp_path / "resnetblur18", net.state_dict(), **config)
    weights = read_weights(str(folder))
    assert not any("the file's name says" in line for line in weights.warnings)
    assert torch.equal(build_frozen_backbone(weights)(images), expected)
    # the filter is a buffer that no file holds, and the proof computes with it
    assert not check(str(folder), [".pth"]).failures


def test_a_file_without_statistics_has_those_of_timms_own_weights(tmp_path: Path) -> None:
    """Some of timm's networks take inputs of -1 to 1; a plain state dict does not say so."""
    name = "tf_efficientnet_lite0"
    state = timm.create_model(name, pretrained=False).state_dict()
    torch.save(state, tmp_path / "x.pth")
    weights = read_weights(str(tmp_path / "x.pth"), backbone=name)
    assert weights.preprocess == Preprocess((0.5,) * 3, (0.5,) * 3)
    assert any(f"timm's weights for {name}, (0.5, 0.5, 0.5)" in w for w in weights.warnings)
    stated = {"mean": [0.1] * 3, "std": [0.2] * 3}
    place = hub(tmp_path / "hub", state, architecture=name, pretrained_cfg=stated)
    weights = read_weights(str(place))
    assert weights.preprocess == Preprocess((0.1,) * 3, (0.2,) * 3)
    assert not any("preprocessing" in w for w in weights.warnings)


@pytest.mark.parametrize("name", ["resnet26", "resnet50_gn"])
def test_a_network_with_fewer_parts_of_a_resnet(tmp_path: Path, name: str) -> None:
    """It is not called damaged alone: its tensors are a part of those of a ResNet-50."""
    state = timm.create_model(name).state_dict()
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InputError, match="not a complete resnet50 .* timm's, give it as timm:NAME"):
        read_weights(str(tmp_path / "x.pth"))
    resnet = timm.create_model("resnet50").state_dict()
    del resnet["layer1.0.conv1.weight"]  # a damaged file
    torch.save(resnet, tmp_path / "y.pth")
    with pytest.raises(InputError, match="1 missing: layer1.0.conv1.weight$"):
        read_weights(str(tmp_path / "y.pth"))
