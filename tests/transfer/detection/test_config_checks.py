"""Configs that cannot be run, or that Detectron2 would build differently, are refused early."""

from __future__ import annotations

import logging

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.torchvision_engine.detector import DetectorSpec

SHORT = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
ONE_ROW = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[64, 128]]"]


def load(*words: str, config: str = "voc_fpn.yaml") -> DetectorSpec:
    return DetectorSpec.from_config(load_detection_config(config, words))


C5 = (
    *("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.RESNETS.OUT_FEATURES", "['res5']"),
    *("MODEL.RPN.IN_FEATURES", "['res5']", "MODEL.ROI_HEADS.IN_FEATURES", "['res5']"),
)


def test_a_whole_resnet_without_a_pyramid() -> None:
    spec = load(*ONE_ROW, *C5, "MODEL.RESNETS.RES5_DILATION", "2")
    assert spec.architecture == "C5" and spec.resnet is spec.backbone
    with torch.device("meta"):  # layers and shapes; the values are not needed
        detector = spec.build()
    assert detector.roi_heads.box_pooler.strides == (16,) and not detector.leaves_unused
    on_res4 = [
        *("MODEL.RESNETS.OUT_FEATURES", "['res4', 'res5']"),
        *("MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']"),
    ]
    with torch.device("meta"):
        assert load(*ONE_ROW, *C5, *on_res4).build().leaves_unused, "res5 has no gradient"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("MODEL.RESNETS.OUT_FEATURES ['res4']", "needs res5: only with .*Res5ROIHeads"),
        (
            "MODEL.RESNETS.OUT_FEATURES ['res4','res5'] MODEL.RPN.IN_FEATURES ['res4','res5']",
            "RPN.IN_FEATURES .* must be one map",
        ),
        ("MODEL.RESNETS.RES5_DILATION 4", "RES5_DILATION 4 is not supported; known: 1, 2"),
        ("MODEL.RESNETS.NUM_GROUPS 0", "NUM_GROUPS must be 1 or above, got 0"),
        (
            "MODEL.BACKBONE.NAME build_resnet_fpn_backbone MODEL.RESNETS.RES5_DILATION 2 "
            "MODEL.RESNETS.OUT_FEATURES ['res2','res3','res4','res5']",
            "RES5_DILATION 2 makes no pyramid",
        ),
        (
            "MODEL.ROI_HEADS.NAME Res5ROIHeads MODEL.RESNETS.RES5_DILATION 2 "
            "MODEL.RESNETS.OUT_FEATURES ['res4'] MODEL.RPN.IN_FEATURES ['res4'] "
            "MODEL.ROI_HEADS.IN_FEATURES ['res4']",
            "RES5_DILATION 2 needs MODEL.ROI_HEADS.NAME StandardROIHeads",
        ),
    ],
)
def test_what_no_such_detector_can_be(words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(*ONE_ROW, *C5, *words.split(" "))


@pytest.mark.parametrize(
    ("words", "rpn", "roi", "stages", "unused"),
    [
        ((), ("p2", "p3", "p4", "p5", "p6"), ("p2", "p3", "p4", "p5"), (2, 3, 4, 5), False),
        (
            ("MODEL.RPN.IN_FEATURES", "['p6', 'p3']", "MODEL.ROI_HEADS.IN_FEATURES", "['p4']"),
            ("p6", "p3"),
            ("p4",),
            (2, 3, 4, 5),
            True,
        ),
        (
            (
                *("MODEL.FPN.IN_FEATURES", "['res4', 'res5']", "MODEL.RPN.IN_FEATURES", "['p4']"),
                *("MODEL.ROI_HEADS.IN_FEATURES", "['p4', 'p5', 'p6']"),
                *("MODEL.RESNETS.OUT_FEATURES", "['stem', 'res4', 'res5']"),
            ),
            ("p4",),
            ("p4", "p5", "p6"),
            (4, 5),
            False,
        ),
    ],
)
def test_feature_maps_are_honoured(
    words: tuple[str, ...],
    rpn: tuple[str, ...],
    roi: tuple[str, ...],
    stages: tuple[int, ...],
    unused: bool,
) -> None:
    detector = load(*SHORT, *ONE_ROW, *words).build()
    assert detector.spec.rpn.in_features == rpn and detector.roi_heads.in_features == roi
    assert detector.roi_heads.box_pooler.strides == tuple(2 ** int(name[1]) for name in roi)
    anchors = detector.proposal_generator.anchor_generator
    assert anchors.strides == tuple(2 ** int(name[1]) for name in rpn)
    assert detector.leaves_unused is unused, "whether DDP must look for layers without a gradient"
    laterals = {name for name, _ in detector.backbone.named_children() if "lateral" in name}
    assert laterals == {f"fpn_lateral{stage}" for stage in stages}


def test_c4_proposes_on_the_named_stage() -> None:
    words = ("MODEL.RESNETS.OUT_FEATURES", "['res3','res4']", "MODEL.RPN.IN_FEATURES", "['res3']")
    detector = load(*words, config="voc_mscn.yaml").build()
    assert detector.spec.rpn.in_features == ("res3",)
    assert detector.proposal_generator.anchor_generator.strides == (8,)
    assert detector.proposal_generator.rpn_head.conv.weight.shape[:2] == (512, 512)
    assert detector.roi_heads.feature == "res4"


@pytest.mark.parametrize(
    ("config", "key", "value", "message"),
    [
        ("voc_fpn", "MODEL.RPN.IN_FEATURES", "['p3','p4','p5','p6']", "has 5 rows for 4 feature"),
        ("voc_fpn", "MODEL.RPN.IN_FEATURES", "['p2','p2','p3','p4','p5']", "names a map twice"),
        ("voc_fpn", "MODEL.RPN.IN_FEATURES", "[]", "IN_FEATURES is empty"),
        ("voc_fpn", "MODEL.ROI_HEADS.IN_FEATURES", "['p2','p4']", "must be consecutive"),
        ("voc_fpn", "MODEL.ROI_HEADS.IN_FEATURES", "['p3','p2']", "the finest map first"),
        ("voc_fpn", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']", "res4 is not among the maps"),
        ("voc_fpn", "MODEL.FPN.IN_FEATURES", "['res3','res4']", "up to res5"),
        ("voc_fpn", "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']", "p2 is not among"),
        ("voc_fpn", "MODEL.FPN.IN_FEATURES", "[]", "MODEL.FPN.IN_FEATURES is empty"),
        ("voc_fpn", "MODEL.RESNETS.OUT_FEATURES", "['res2']", "lacks res3, res4, res5"),
        ("voc_fpn", "MODEL.RESNETS.STEM_OUT_CHANNELS", "32", "the only value: 64"),
        ("voc_fpn", "MODEL.RESNETS.RES2_OUT_CHANNELS", "128", "the only value: 256"),
        ("voc_fpn", "MODEL.RESNETS.DEPTH", "18", "RES2_OUT_CHANNELS 256 .* the only value: 64"),
        ("voc_fpn", "MODEL.ROI_BOX_HEAD.NAME", "NoSuchHead", "set FastRCNNConvFCHead"),
        ("voc_fpn", "MODEL.ROI_BOX_HEAD.NAME", "", "set FastRCNNConvFCHead"),
        ("voc_fpn", "MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.5, 0.7]", "must be one number"),
        ("voc_fpn", "MODEL.RPN.IOU_THRESHOLDS", "[0.3, 0.5, 0.7]", "must be 2 numbers"),
        ("voc_fpn", "MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]", "in ascending order"),
        ("voc_mscn", "MODEL.RESNETS.OUT_FEATURES", "['res3']", "needs res4"),
        ("voc_mscn", "MODEL.RESNETS.OUT_FEATURES", "['res4','res5']", "res5 is not among"),
        ("voc_mscn", "MODEL.RPN.IN_FEATURES", "['res3']", "res3 is not among the maps"),
        ("voc_mscn", "MODEL.ROI_HEADS.IN_FEATURES", "['res3']", r"the only value: \['res4'\]"),
        ("voc_mscn", "MODEL.ROI_BOX_HEAD.NAME", "NoSuchHead", "MODEL.ROI_BOX_HEAD.NAME"),
        ("digits_voc", "MODEL.RPN.IN_FEATURES", "['res3']", r"the only value: \['res4'\]"),
        ("voc_fpn", "MODEL.BACKBONE.FREEZE_AT", "9", "FREEZE_AT 9 is unknown; known: 0, 1, 2"),
        ("voc_fpn", "MODEL.BACKBONE.FREEZE_AT", "-1", "FREEZE_AT -1"),
        ("voc_fpn", "MODEL.DEVICE", "mps", "MODEL.DEVICE 'mps' is not supported; set cuda"),
        ("voc_fpn", "INPUT.MAX_SIZE_TRAIN", "0", "INPUT.MAX_SIZE_TRAIN must be 1 or above"),
        ("voc_fpn", "INPUT.MAX_SIZE_TEST", "0", "INPUT.MAX_SIZE_TEST must be 1 or above"),
        ("voc_fpn", "INPUT.MIN_SIZE_TEST", "-1", "INPUT.MIN_SIZE_TEST must be 0 or above"),
        ("voc_fpn", "INPUT.MIN_SIZE_TRAIN", "()", "INPUT.MIN_SIZE_TRAIN .* must list one size"),
        ("voc_fpn", "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "known: WarmupMultiStepLR, Warm"),
        ("voc_fpn", "SOLVER.LR_SCHEDULER_NAME", "Cosine", "SOLVER.LR_SCHEDULER_NAME 'Cosine'"),
        ("voc_fpn", "SOLVER.WARMUP_METHOD", "exp", "SOLVER.WARMUP_METHOD 'exp' is unknown"),
        ("voc_fpn", "SOLVER.NUM_DECAYS", "0", "SOLVER.NUM_DECAYS must be 1 or above, got 0"),
        ("voc_fpn", "SOLVER.GAMMA", "-0.1", "SOLVER.GAMMA must be 0 or above, got -0.1"),
        ("voc_fpn", "SOLVER.MOMENTUM", "-1", "SOLVER.MOMENTUM must be 0 or above"),
        ("voc_fpn", "SOLVER.WEIGHT_DECAY", "-1", "SOLVER.WEIGHT_DECAY must be 0 or above"),
        ("voc_fpn", "SOLVER.WARMUP_FACTOR", "-1", "SOLVER.WARMUP_FACTOR must be 0 or above"),
        ("voc_fpn", "DATALOADER.NUM_WORKERS", "-1", "DATALOADER.NUM_WORKERS must be 0 or above"),
        ("voc_fpn", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "0", "PER_IMAGE must be 1 or above, got 0"),
        ("voc_fpn", "MODEL.RPN.POST_NMS_TOPK_TEST", "0", "TOPK_TEST must be 1 or above, got 0"),
        ("voc_fpn", "MODEL.ROI_HEADS.NMS_THRESH_TEST", "-1", "NMS_THRESH_TEST must be 0 or above"),
        ("voc_fpn", "MODEL.ROI_BOX_HEAD.FC_DIM", "0", "ROI_BOX_HEAD.FC_DIM must be 1 or above"),
        ("voc_fpn", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "2", "must be from 0 to 1, got 2.0"),
        ("voc_fpn", "MODEL.ROI_HEADS.POSITIVE_FRACTION", "-1", "must be from 0 to 1, got -1.0"),
        ("voc_fpn", "MODEL.PIXEL_STD", "[57,0,57]", r"PIXEL_STD \[57, 0, 57\] must be numbers ab"),
        ("voc_fpn", "MODEL.ANCHOR_GENERATOR.SIZES", "[[32],[0]]", "SIZES .* numbers above 0"),
        ("voc_fpn", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[-1]", "RATIOS .* numbers above 0"),
        ("voc_fpn", "MODEL.ANCHOR_GENERATOR.OFFSET", "1", "and below 1, got 1.0"),
        ("voc_fpn", "MODEL.ANCHOR_GENERATOR.OFFSET", "-0.5", "and below 1, got -0.5"),
        ("voc_fpn", "TEST.PRECISE_BN.NUM_ITER", "-1", "NUM_ITER must be 1 or above, got -1"),
        ("voc_fpn", "MODEL.RPN.BBOX_REG_WEIGHTS", "[1,1,0,1]", "WEIGHTS .* numbers above 0"),
        ("voc_fpn", "SOLVER.BASE_LR", "0", "SOLVER.BASE_LR 0.0 must be above 0"),
        ("voc_fpn", "SOLVER.STEPS", "(20, 10)", r"SOLVER.STEPS \(20, 10\) must be increasing"),
        ("voc_fpn", "SOLVER.STEPS", "(24000,)", "at SOLVER.MAX_ITER 24000, where .* stops"),
    ],
)
def test_refused_with_the_config(config: str, key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(key, value, config=f"{config}.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "SOLVER.MAX_ITER 150 SOLVER.STEPS (140,240)",
            "steps come after SOLVER.MAX_ITER 150 and are left out (1: 240)",
        ),
        ("SOLVER.MAX_ITER 20 SOLVER.STEPS () SOLVER.WARMUP_ITERS 30", "WARMUP_ITERS 30, SOLVER.M"),
    ],
)
def test_what_a_run_can_live_with_is_warned_of(
    words: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    common = "SOLVER.WARMUP_ITERS 1" if "WARMUP" not in words else ""
    with caplog.at_level(logging.WARNING):
        load_detection_config("voc_fpn.yaml", [*common.split(), *words.split()])
    (line,) = [record.getMessage() for record in caplog.records]
    assert message in line and line.startswith("voc_fpn.yaml: ")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CLIP_TYPE", "full_model", "CLIP_TYPE 'full_model' is unknown; known: value, norm"),
        ("CLIP_VALUE", "0", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE 0.0 must be above 0"),
        ("NORM_TYPE", "-1", "SOLVER.CLIP_GRADIENTS.NORM_TYPE -1.0 must be above 0"),
    ],
)
def test_clipping_that_cannot_be(key: str, value: str, message: str) -> None:
    words = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", f"SOLVER.CLIP_GRADIENTS.{key}", value]
    with pytest.raises(InputError, match=message):
        load_detection_config("voc_fpn.yaml", words)
    load_detection_config("voc_fpn.yaml", words[2:])


def test_steps_of_another_schedule_are_not_looked_at() -> None:
    words = ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.STEPS", "(24000,)"]
    assert load_detection_config("voc_fpn.yaml", words).SOLVER.STEPS == (24000,)


def test_a_flat_list_of_anchors_is_one_row() -> None:
    sizes = "MODEL.ANCHOR_GENERATOR.SIZES"
    assert load(sizes, "[32, 64]").rpn.anchors.sizes == ((32, 64),)


def test_the_names_decide_about_the_protocol() -> None:
    words = (*ONE_ROW, "MODEL.RPN.IN_FEATURES", "['p3', 'p4']")
    found = {protocol_sha256(load_detection_config("voc_fpn.yaml", w)) for w in (ONE_ROW, words)}
    assert len(found) == 2
