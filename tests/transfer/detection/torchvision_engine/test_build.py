"""What a spec may hold, and that its fields reach the parts."""

from __future__ import annotations

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.build import build_detector
from transfer.detection.torchvision_engine.spec import DetectorSpec

FPN = {
    "architecture": "FPN",
    "depth": 18,
    "box_head_num_fc": 1,
    "box_head_fc_dim": 8,
    "box_pooler_resolution": 3,
    "anchor_sizes": ((32,), (64,), (128,), (256,), (512,)),
}


@pytest.mark.parametrize("depth", [18, 34])
def test_c4_refuses_basic_blocks(depth: int) -> None:
    with pytest.raises(InputError, match=f"DEPTH {depth} has no C4"):
        build_detector(architecture="C4", depth=depth)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"architecture": "C5"}, "C5"),
        ({"depth": 20}, "DEPTH 20"),
        ({"norm": "FreezeBN"}, "FreezeBN"),
        ({**FPN, "extra_norm": True}, "ExtraNorm"),
        ({**FPN, "box_head_num_fc": 0}, "NUM_FC"),
        ({"num_classes": 0}, "NUM_CLASSES"),
        ({**FPN, "anchor_sizes": ((32,), (64,))}, "SIZES has 2 rows"),
    ],
)
def test_bad_fields(fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_detector(**fields)


def test_extra_norm_is_the_last_child_of_res5_without_relu() -> None:
    torch.manual_seed(0)
    detector = build_detector(norm="BN", freeze_at=0, extra_norm=True, num_classes=2).eval()
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
    keys = set(build_detector(**FPN, mask_on=True, mask_num_conv=1).state_dict())
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
    assert DetectorSpec(depth=101).backbone_name == "resnet101"
    tiny = DetectorSpec(architecture="TINY", box_head_num_fc=1)
    assert tiny.backbone_name == "tiny_resnet"
