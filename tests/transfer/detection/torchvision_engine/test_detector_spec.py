"""The values that a detector's spec allows, and that they reach the parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass, replace

import pytest
import torch

from pretrain.common.errors import InputError
from tests.transfer.detection import specs
from tests.transfer.detection.specs import make_detector, make_spec

FPN = {
    **specs.FPN,
    **specs.R18,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 8,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 3,
    "MODEL.ANCHOR_GENERATOR.SIZES": specs.LEVELS,
}


@pytest.mark.parametrize("depth", [18, 34])
def test_c4_refuses_basic_blocks(depth: int) -> None:
    with pytest.raises(InputError, match=f"DEPTH {depth} has no C4"):
        make_detector({"MODEL.RESNETS.DEPTH": depth})


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"MODEL.BACKBONE.NAME": "C5"}, "C5"),
        ({"MODEL.RESNETS.DEPTH": 20}, "DEPTH 20"),
        ({"MODEL.RESNETS.NORM": "FreezeBN"}, "MODEL.RESNETS.NORM 'FreezeBN'"),
        ({**FPN, "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm"}, "ExtraNorm"),
        ({**FPN, "MODEL.ROI_BOX_HEAD.NUM_FC": 0}, "NUM_FC"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 0}, "NUM_CLASSES"),
        ({**FPN, "MODEL.ANCHOR_GENERATOR.SIZES": ((32,), (64,))}, "SIZES has 2 rows"),
    ],
)
def test_bad_values(keys: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_detector(keys)


def specs_in(spec: object) -> Iterator[object]:
    yield spec
    for part in fields(spec):
        if is_dataclass(value := getattr(spec, part.name)):
            yield from specs_in(value)


@pytest.mark.parametrize("kind", [{}, specs.FPN, specs.TINY, specs.VIT])
def test_no_default_is_written_twice(kind: dict) -> None:
    """Defaults are those of the config; only the weights' filter is not in it."""
    keys = {"MODEL.MASK_ON": True, "MODEL.FPN.NORM": "LN", "MODEL.ROI_BOX_HEAD.NUM_FC": 1}
    found = list(specs_in(make_spec({**kind, **keys})))
    given = {part.name for spec in found for part in fields(spec) if part.default is not MISSING}
    assert given == {"highpass"} and len(found) >= 8


def test_a_variant_is_checked_too() -> None:
    """A spec that was changed in Python is held to the same rules as one from a config."""
    spec = make_spec(FPN)
    with pytest.raises(InputError, match="MODEL.RPN.IN_FEATURES .* is not among the maps"):
        replace(spec, rpn=replace(spec.rpn, in_features=("res2", "p3", "p4", "p5", "p6")))
    with pytest.raises(InputError, match="NUM_CLASSES"):
        replace(spec.roi_heads, num_classes=0)
    heads = replace(spec.roi_heads, num_classes=7)
    detector = replace(spec, roi_heads=heads).build()
    assert detector.roi_heads.box_predictor.cls_score.out_features == 8


def test_extra_norm_is_the_last_child_of_res5_without_relu() -> None:
    torch.manual_seed(0)
    keys = {"MODEL.RESNETS.NORM": "BN", "MODEL.BACKBONE.FREEZE_AT": 0}
    keys["MODEL.ROI_HEADS.NAME"] = "Res5ROIHeadsExtraNorm"
    detector = make_detector(keys).eval()
    res5 = detector.roi_heads.res5
    assert list(dict(res5.named_children())) == ["0", "1", "2", "norm"]
    x = torch.randn(1, 1024, 4, 4)
    with torch.no_grad():
        expected = res5.norm(res5[2](res5[1](res5[0](x))))
        torch.nn.init.constant_(res5.norm.bias, -0.5)
        torch.testing.assert_close(res5(x), expected - 0.5)
        assert (res5(x) < 0).any()
    assert "roi_heads.res5.norm.running_var" in detector.state_dict()


def test_names_are_detectron2s() -> None:
    keys = set(
        make_detector(
            {**FPN, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 1}
        ).state_dict()
    )
    for key in (
        "backbone.bottom_up.stem.conv1.norm.running_mean",
        "backbone.bottom_up.res2.0.conv1.weight",
        "backbone.bottom_up.res3.0.shortcut.norm.weight",
        "backbone.fpn_lateral2.bias",
        "backbone.fpn_output5.weight",
        "proposal_generator.rpn_head.conv.weight",
        "proposal_generator.rpn_head.objectness_logits.bias",
        "proposal_generator.rpn_head.anchor_deltas.bias",
        "roi_heads.box_head.fc1.weight",
        "roi_heads.box_predictor.cls_score.weight",
        "roi_heads.box_predictor.bbox_pred.weight",
        "roi_heads.mask_head.mask_fcn1.weight",
        "roi_heads.mask_head.deconv.weight",
        "roi_heads.mask_head.predictor.bias",
    ):
        assert key in keys, key
    assert not any("pixel" in key or "anchor_generator" in key for key in keys)


def test_backbone_name() -> None:
    assert make_spec({"MODEL.RESNETS.DEPTH": 101}).backbone_name == "resnet101"
    tiny = make_spec({**specs.TINY, "MODEL.ROI_BOX_HEAD.NUM_FC": 1})
    assert (tiny.backbone_name, tiny.architecture) == ("tiny_resnet", "TINY")
