"""Loading a backbone and a complete model: what is loaded, what is reported, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from tests.transfer.detection import specs
from tests.transfer.detection.specs import make_detector
from transfer.checkpoints.weights import Weights, make_provenance
from transfer.detection.torchvision_engine.detector import Detector
from transfer.detection.torchvision_engine.load import load_backbone, load_model

SMALL = {
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
    "MODEL.ANCHOR_GENERATOR.SIZES": ((16,),),
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 5,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
}
TINY = {**specs.TINY, **SMALL}
C5 = {
    **specs.C5,
    **SMALL,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NUM_GROUPS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
}
FPN18 = {**specs.FPN, **specs.R18, **SMALL, "MODEL.ANCHOR_GENERATOR.SIZES": specs.LEVELS}


def make_weights(name: str) -> Weights:
    torch.manual_seed(5)
    trunk = build_resnet(name)
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        trunk(torch.randn(2, 3, 64, 64))
    return Weights(trunk.state_dict(), name, Preprocess(), make_provenance())


def trunk_of(weights: Weights) -> nn.Module:
    trunk = build_resnet(weights.backbone)
    trunk.load_state_dict(weights.state)
    return trunk.eval()


def test_c4_features_equal_torchvision_bit_for_bit() -> None:
    weights = make_weights("resnet50")
    keys = {
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
    }
    detector = make_detector(keys)
    report = load_backbone(detector, weights)
    assert report.unexpected == []
    stage_names = ("proposal_generator.", "roi_heads.box_predictor.", "roi_heads.res5.norm.")
    assert report.expected_missing
    assert all(name.startswith(stage_names) for name in report.expected_missing)
    assert any(name.startswith("roi_heads.res5.2.conv3.norm") for name in report.matched)
    x = torch.randn(1, 3, 64, 64)
    maps = trunk_of(weights).forward_stages(x)
    with torch.no_grad():
        res4 = detector.eval().backbone(x)["res4"]
        res5 = nn.Sequential(*list(detector.roi_heads.res5)[:3])(res4)
    assert torch.equal(res4, maps["layer3"])
    assert torch.equal(res5, maps["layer4"])


def test_fpn_c5_and_tiny() -> None:
    for keys, name, attribute in (
        (FPN18, "resnet18", "bottom_up"),
        (C5, "resnext50_32x4d", None),
        (TINY, "tiny_resnet", None),
    ):
        weights = make_weights(name)
        detector = make_detector(keys).eval()
        report = load_backbone(detector, weights)
        trunk = getattr(detector.backbone, attribute) if attribute else detector.backbone
        x = torch.randn(1, 3, 64, 64)
        maps = trunk_of(weights).forward_stages(x)
        for stage, value in trunk(x).items():
            assert torch.equal(value, maps[f"layer{int(stage[3]) - 1}"])
        assert "unexpected" not in report.line()
        assert not set(report.matched) & set(report.expected_missing)


def test_another_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="resnet18.*tiny_resnet.*DEPTH"):
        load_backbone(make_detector(TINY), make_weights("resnet18"))


def test_missing_and_homeless_tensors() -> None:
    weights = make_weights("tiny_resnet")
    state = dict(weights.state)
    del state["layer2.0.conv1.weight"]
    state["fc.weight"] = torch.zeros(3, 3)
    broken = replace(weights, state=state)
    with pytest.raises(InputError, match="2 tensors"):
        load_backbone(make_detector(TINY), broken)
    report = load_backbone(make_detector(TINY), broken, allow_unexpected=True)
    assert report.unexpected == ["backbone.res3.0.conv1.weight", "fc.weight"]


def test_nothing_matches_and_wrong_shape() -> None:
    weights = make_weights("tiny_resnet")
    nothing = {f"net.{key}": value for key, value in weights.state.items()}
    with pytest.raises(InputError, match="none of the"):
        load_backbone(make_detector(TINY), replace(weights, state=nothing))
    other = {**weights.state, "conv1.weight": torch.zeros(32, 3, 7, 7)}
    with pytest.raises(InputError, match=r"stem.conv1.weight.*\(32, 3, 7, 7\)"):
        load_backbone(make_detector(TINY), replace(weights, state=other))


def equal_states(first: Detector, second: Detector) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_whole_model_from_tensors_and_from_arrays() -> None:
    source = make_detector(TINY)
    state = source.state_dict()
    arrays = {key: value.numpy() for key, value in state.items()}
    arrays["pixel_mean"] = np.zeros(3)
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = np.zeros((3, 4))
    for whole in (state, arrays):
        detector = make_detector(TINY)
        assert not equal_states(source, detector)
        report = load_model(detector, whole)
        assert equal_states(source, detector)
        assert report.expected_missing == [] and report.unexpected == []


def test_whole_model_of_other_classes() -> None:
    state = make_detector(TINY).state_dict()
    other = make_detector({**TINY, "MODEL.ROI_HEADS.NUM_CLASSES": 7})
    with pytest.raises(InputError, match="number of classes"):
        load_model(other, state)


def test_the_log_counts_by_part_and_names_on_demand() -> None:
    """One short line, however many tensors there are; all their names in another one."""
    report = load_backbone(make_detector(FPN18), make_weights("resnet18"))
    count = len(report.expected_missing)
    # A lateral and an output convolution on each of 4 levels, the RPN's three, one fc layer, the
    # predictor's two: weight and bias of each.
    assert count == 28 and report.line() == (
        f"{len(report.matched)} tensors loaded; {count} left at their initialisation as expected: "
        "FPN 16, RPN 6, box head 2, box predictor 4"
    )
    assert replace(report, unexpected=["a", "b"]).line().endswith("; 2 unexpected: a 1, b 1")
    (line,) = report.names()
    assert line.count(",") == count - 1 and "proposal_generator.rpn_head.conv.weight" in line
