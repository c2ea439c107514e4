"""The real Detectron2 reads what the converter writes: backbones, detectors, and back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("detectron2.modeling", reason="detectron2 is not installed")
pytestmark = pytest.mark.detectron2

from pretrain.data.preprocess import Preprocess  # noqa: E402
from tools.convert_weights import main  # noqa: E402
from transfer.checkpoints.build import build_trunk  # noqa: E402
from transfer.checkpoints.convert import check  # noqa: E402
from transfer.checkpoints.proof import ProofError  # noqa: E402
from transfer.checkpoints.weights import Weights, make_provenance  # noqa: E402
from transfer.checkpoints.writers import write_weights  # noqa: E402
from transfer.detection.detectron2_proof import prove_in_detectron2  # noqa: E402

BACKBONES = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "wide_resnet50_2", "resnet50w2"),
    *("resnext50_32x4d", "resnext101_32x8d"),
    *("vit_tiny_patch16_64", "vit_small_patch16_64"),
)


def weights_of(builders: ModuleType, backbone: str, **architecture: object) -> Weights:
    state = builders.trained_state(backbone)
    facts = make_provenance()
    return Weights(state, backbone, Preprocess(), facts, None, (), architecture)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone(backbone: str, builders: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    write_weights(weights_of(builders, backbone), path)
    report = check(str(path), [".pkl"], more={"real": prove_in_detectron2})
    assert report.proofs["real"] and not report.failures


def test_stride_in_the_first_convolution(builders: ModuleType, tmp_path: Path) -> None:
    write_weights(weights_of(builders, "resnet50", stride_in_1x1=True), tmp_path / "w.pth")
    report = check(str(tmp_path / "w.pth"), [".pkl"], more={"real": prove_in_detectron2})
    assert report.proofs["real"] and not report.failures
    wrong = build_trunk("resnet50", {}).eval()
    wrong.load_state_dict(report.weights.state)
    rows = prove_in_detectron2(wrong, report.weights)
    assert any(not row.passed for row in rows)


def test_a_missing_tensor_is_found(builders: ModuleType) -> None:
    weights = weights_of(builders, "resnet18")
    state = {k: v for k, v in weights.state.items() if not k.startswith("layer3.1.bn2")}
    trunk = build_trunk("resnet18", {}).eval()
    with pytest.raises(ProofError, match="no value for .*res4.1.conv2.norm"):
        prove_in_detectron2(trunk, replace(weights, state=state))


def test_the_command_prints_the_real_proof(
    builders: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = builders.moco(tmp_path / "m.pth.tar", builders.trained_state("resnet50"), "resnet50")
    assert main([str(path), str(tmp_path / "o.pkl")]) == 0
    out = capsys.readouterr().out
    assert "real detectron2" in out and "wrote" in out


def test_a_detector_takes_the_file_and_gives_it_back(builders: ModuleType, tmp_path: Path) -> None:
    """Through FPN's `backbone.bottom_up.`, by Detectron2's suffix matching."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_backbone

    weights = weights_of(builders, "resnet50")
    write_weights(weights, tmp_path / "w.pkl")
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    network = torch.nn.Module()
    network.backbone = build_backbone(cfg)
    DetectionCheckpointer(network).load(str(tmp_path / "w.pkl"))
    found = network.state_dict()
    for name, tensor in weights.state.items():
        key = f"backbone.bottom_up.{builders.detectron2_name(name)}"
        if key in found:  # FrozenBN has no counters
            assert torch.equal(found[key], tensor), key
        else:
            assert name.endswith("num_batches_tracked")
