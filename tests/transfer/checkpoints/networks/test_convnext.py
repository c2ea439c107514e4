"""ConvNeXts: names and shapes equal timm's, features equal those of the libraries; refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pretrain.common.errors import InputError
from tests.transfer.checkpoints import formats_convnets as nets
from tools.convert_weights import main
from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.convert import check, write_proven
from transfer.checkpoints.networks.convnext import V1, V2, convnext_shapes, parse_convnext
from transfer.checkpoints.proof import load_layout, prove, source_network
from transfer.checkpoints.read import read, read_weights
from transfer.classification.training.heads import choose_features

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def awake(network: nn.Module) -> nn.Module:
    """Values as after training: no part has a value that makes it invisible."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        value.data += 0.02 * torch.randn(value.shape, generator=generator)
        if name.endswith(("gamma", "layer_scale")):
            value.data.uniform_(0.1, 0.5, generator=generator)
    return network.eval()


@torch.no_grad()
def assert_computes(path: Path, network: Callable[[Tensor], Tensor]) -> None:
    expected = network(IMAGES)
    found = build_frozen_backbone(read_weights(str(path)))(IMAGES)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version, sizes", [("", V1), ("v2", V2)])
def test_names_and_shapes_are_timms(version: str, sizes: dict) -> None:
    for size in sizes:
        name = f"convnext{version}_{size}"
        with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
            patch.setattr("timm.models.convnext._init_weights", lambda *args, **kw: None)
            state = timm.create_model(name, num_classes=0).state_dict()
        theirs = {key: tuple(value.shape) for key, value in state.items()}
        assert convnext_shapes(parse_convnext(name)) == theirs


@pytest.mark.parametrize("name", ["convnext_xlarge_mlp", "convnextv2_xlarge", "convnext_huge", "x"])
def test_other_names_are_no_convnext(name: str) -> None:
    assert parse_convnext(name) is None


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_timms_own_features(name: str, tmp_path: Path) -> None:
    network = awake(timm.create_model(name))
    torch.save(network.state_dict(), tmp_path / "w.pth")
    network.reset_classifier(0)
    assert_computes(tmp_path / "w.pth", network)


def test_torchvisions_own_features(tmp_path: Path) -> None:
    network = awake(torchvision.models.convnext_tiny())
    torch.save(network.state_dict(), tmp_path / "w.pth")
    network.classifier[2] = nn.Identity()
    assert_computes(tmp_path / "w.pth", network)


def test_without_layer_scale_or_last_norm(tmp_path: Path) -> None:
    network = awake(timm.create_model("convnext_atto", num_classes=0, ls_init_value=None))
    torch.save(nets.fair(network.state_dict()), tmp_path / "vicregl.pth")
    assert_computes(tmp_path / "vicregl.pth", network)
    assert not any(
        "no norm after" in line for line in read_weights(str(tmp_path / "vicregl.pth")).warnings
    )
    second = awake(timm.create_model("convnextv2_atto", num_classes=0))
    torch.save(nets.fcmae(second.state_dict()), tmp_path / "fcmae.pth")
    plain = nn.LayerNorm(320, eps=1e-6)
    assert_computes(
        tmp_path / "fcmae.pth", lambda x: plain(second.forward_features(x).mean((2, 3)))
    )
    warnings = read_weights(str(tmp_path / "fcmae.pth")).warnings
    assert any("no norm after pooling" in line for line in warnings)


def test_fcmaes_kernels_are_those_of_its_authors_conversion(builders: ModuleType) -> None:
    """utils.py remap_checkpoint_keys: permute, reshape, swap the two axes of a kernel."""
    state = builders.trained_state("convnextv2_atto")
    content = nets.fcmae(state)["model"]
    kernel = content["encoder.stages.0.0.dwconv.kernel"]
    assert kernel.shape == (49, 40)
    theirs = kernel.permute(1, 0).reshape(40, 1, 7, 7).transpose(3, 2)
    assert torch.equal(theirs, state["stages.0.blocks.0.conv_dw.weight"])
    kernel = content["encoder.downsample_layers.1.1.kernel"]
    theirs = kernel.permute(2, 1, 0).reshape(80, 40, 2, 2).transpose(3, 2)
    assert torch.equal(theirs, state["stages.1.downsample.1.weight"])


def test_a_whole_norm_that_a_rule_would_drop_is_not_filled(tmp_path: Path) -> None:
    """Averaged weights of timm: `head.fc` is a classifier, `head.norm` is the trunk's."""
    network = awake(timm.create_model("convnext_atto"))
    state = network.state_dict()
    torch.save({"state_dict_ema": state, "state_dict": state, "epoch": 9}, tmp_path / "w.pth.tar")
    network.reset_classifier(0)
    assert_computes(tmp_path / "w.pth.tar", network)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    assert_computes(tmp_path / "w.pth", network)


def test_convolutions_behind_a_new_layer_scale_are_proven(
    tmp_path: Path, builders: ModuleType
) -> None:
    state = builders.trained_state("convnext_atto")
    state = {k: v * 0 + 1e-6 if k.endswith("gamma") else v for k, v in state.items()}
    torch.save(state, tmp_path / "w.pth")
    reading = read(str(tmp_path / "w.pth"))
    network = source_network(reading.found, reading.weights)
    rows = prove(network, reading.weights, "timm")
    assert all(row.passed for row in rows)
    first, second = (f"stages.2.blocks.{place}.conv_dw.weight" for place in (1, 2))
    own = reading.weights.state
    own[first], own[second] = own[second], own[first]
    failed = {row.inputs for row in prove(network, reading.weights, "timm") if not row.passed}
    assert failed == {"random, scales set to 1"}
    loaded = load_layout(state, "convnext_atto", "timm", {})
    assert float(loaded.network.stages[0].blocks[0].gamma.max()) == pytest.approx(1e-6)


def test_it_is_not_written_for_detectron2(
    tmp_path: Path, builders: ModuleType, capsys: pytest.CaptureFixture
) -> None:
    torch.save(builders.trained_state("convnext_atto"), tmp_path / "w.pth")
    assert main([str(tmp_path / "w.pth"), str(tmp_path / "out.pkl")]) == 2
    error = capsys.readouterr().err
    assert "a convnext_atto is not written for Detectron2" in error and error.count("\n") == 1
    assert main([str(tmp_path / "w.pth"), "--check"]) == 0
    assert "proven equal" in capsys.readouterr().out

    def never(*args: object) -> list:
        raise AssertionError("there is nothing to prove in Detectron2")

    assert check(str(tmp_path / "w.pth"), (), more={"detectron2": never}).proofs.keys() == {"timm"}
    report = write_proven(check(str(tmp_path / "w.pth"), [".pth"]), tmp_path / "out.pth")
    network = timm.create_model("convnext_atto", num_classes=0)
    network.load_state_dict(torch.load(report.written), strict=True)


def test_dinov3s_second_name_must_be_the_same_tensor(tmp_path: Path, builders: ModuleType) -> None:
    content = nets.twice(builders.trained_state("convnext_atto"))
    content["norms.3.bias"] = content["norms.3.bias"] + 1
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="norm.bias and norms.3.bias differ"):
        read_weights(str(tmp_path / "w.pth"))


def test_a_vits_pooling_is_no_matter_for_it() -> None:
    network = timm.create_model("convnext_atto", num_classes=0)
    features = choose_features("linear", network, "patches")(network, IMAGES[:1])
    assert [tuple(value.shape) for value in features.values()] == [(1, 320)]
