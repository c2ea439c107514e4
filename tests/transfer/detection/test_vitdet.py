"""ViTDet from a file of MAE or MSN to a record, and what is refused before that."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from tests.transfer.checkpoints import formats
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import random_weights, read_weights
from transfer.checkpoints.weights import Weights
from transfer.detection.config import (
    backbone_name,
    load_detection_config,
    protocol_sha256,
)
from transfer.detection.roles import ROLES
from transfer.detection.task import DetectionTask
from transfer.detection.torchvision_engine.detector import DetectorSpec
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.load import load_backbone
from transfer.detection.weights.starting_weights import check_backbone, read_backbone, with_backbone
from transfer.results.record import read_record
from transfer.training.build import make_optimizer
from transfer.trials.command import evaluate_request
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
CONFIG = "digits_vitdet.yaml"
SMALL_VIT = "vit_tiny_patch16_32"  # 2 x 2 positions, where the config says 14 x 14
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 "
    "DATALOADER.NUM_WORKERS 0 TRANSFER.DRAW_DETECTIONS 0 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0"
).split()


def weights_file(folder: Path, kind: str) -> Path:
    state = random_weights(SMALL_VIT, seed=3).state
    if kind == "mae":
        content = formats.mae(state, decoder=False)
    else:
        content = formats.msn(state, whole=False)
    torch.save(content, folder / f"{kind}.pth")
    return folder / f"{kind}.pth"


@pytest.mark.parametrize("kind", ["mae", "msn"])
def test_from_a_file_to_a_record_and_back(digits: Path, tmp_path: Path, kind: str) -> None:
    file = weights_file(tmp_path, kind)
    options = {"engine": "torchvision", "overrides": tuple(TINY)}
    (path,) = run_trials(
        TASK, TASK.prepare(Request(CONFIG, str(file), str(tmp_path / "run"), **options))
    )
    record = read_record(path)
    assert record["checkpoint"]["backbone"] == SMALL_VIT
    assert record["checkpoint"]["source"] == kind
    log = (path.parent / "log.txt").read_text()
    assert "TRANSFER.VIT.PRETRAIN_IMAGE_SIZE 224 of the config is replaced by 32" in log
    assert "147 tensors loaded" in log and "unexpected" not in log
    # The shipped config says 224; the model itself knows better.
    model = path.parent / "model_final.pth"
    scored = evaluate_request(TASK, Request(CONFIG, str(model), str(tmp_path / "again"), **options))
    assert scored.metrics == {k: v for k, v in record["metrics"].items() if k in scored.metrics}


def weights_of(backbone: str = SMALL_VIT, **architecture: int) -> Weights:
    return replace(random_weights(backbone, seed=3), architecture=architecture)


def test_every_key_has_its_fate() -> None:
    weights = weights_of()
    cfg = with_backbone(load_detection_config(CONFIG), weights)
    detector = DetectorSpec.from_config(cfg).build()
    report = load_backbone(detector, weights)
    assert report.unexpected == []
    assert len(report.matched) == len(weights.state) - 3, "no class token, no last norm"
    for name in report.matched:
        mine = weights.state[name.removeprefix("backbone.net.")]
        assert torch.equal(detector.state_dict()[name], mine)
    parts = ("backbone.simfp_", "proposal_generator.", "roi_heads.")
    left = [name for name in report.expected_missing if not name.startswith(parts)]
    assert len(left) == 24 and all(".rel_pos_" in name for name in left)
    lost = {k: v for k, v in weights.state.items() if k != "blocks.3.norm1.bias"}
    with pytest.raises(InputError, match="backbone.net.blocks.3.norm1.bias"):
        load_backbone(detector, replace(weights, state=lost))
    report = load_backbone(detector, replace(weights, state=lost), allow_unexpected=True)
    assert report.unexpected == ["backbone.net.blocks.3.norm1.bias"]


def test_facts_of_the_weights_win(caplog: pytest.LogCaptureFixture) -> None:
    cfg = load_detection_config(CONFIG)
    found = with_backbone(cfg, weights_of(num_heads=6)).TRANSFER.VIT
    assert (found.HEADS, found.PRETRAIN_IMAGE_SIZE) == (6, 32)
    assert sum("is replaced by" in record.message for record in caplog.records) == 2
    assert "STRIDE_IN_1X1" not in caplog.text
    same = with_backbone(cfg, weights_of("vit_tiny_patch16_224"))
    assert same == cfg
    detector = DetectorSpec.from_config(with_backbone(cfg, weights_of())).build()
    with pytest.raises(InputError, match="attention has 6 heads, the detector's has 3"):
        load_backbone(detector, weights_of(num_heads=6))


def test_variants_of_a_vit_are_refused_by_what_vitdet_lacks() -> None:
    cfg = load_detection_config(CONFIG)
    for backbone, lacks in (
        ("vit_tiny_patch16_ls_reg4_32", "LayerScale and registers"),
        ("vit_tiny_patch16_nocls_32", "positions without a class token's"),
        ("vit_tiny_patch16_swiglu512_32", "gated MLPs"),
        ("vit_tiny_patch16_rope_224", "rotary positions"),
    ):
        with pytest.raises(InputError, match=f"w.pth is a {backbone}: ViTDet's .* no {lacks}"):
            check_backbone("w.pth", weights_of(backbone), cfg)


def test_the_filter_of_the_weights_is_applied() -> None:
    filtered = replace(weights_of().preprocess, highpass=HighPass(sigma=2.0))
    weights = replace(weights_of(), preprocess=filtered)
    cfg = with_backbone(load_detection_config(CONFIG), weights)
    image = torch.randint(0, 256, (3, 64, 80), dtype=torch.uint8)
    (plain, _), (found, _) = (
        make_detector(cfg, p).preprocess([image]) for p in (weights_of().preprocess, filtered)
    )
    assert plain.shape == found.shape == (1, 3, 128, 128)
    expected = filtered.highpass.apply(plain[:, :, :64, :80])
    torch.testing.assert_close(found[:, :, :64, :80], expected)


def test_other_backbones_are_refused(tmp_path: Path) -> None:
    cfg = load_detection_config(CONFIG)
    torch.save(random_weights("tiny_resnet", 0).state, tmp_path / "resnet.pth")
    message = "is a tiny_resnet, but the config builds a vit_tiny_patch16_224.*TRANSFER.VIT"
    with pytest.raises(InputError, match=message):
        read_backbone(OpenedWeights(tmp_path / "resnet.pth"), cfg, seed=0)


def test_random_weights(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        weights = read_backbone(OpenedWeights("random"), load_detection_config(CONFIG), seed=1)
    assert weights.backbone == "vit_tiny_patch16_224" and not caplog.records
    again = read_weights("random", backbone="vit_tiny_patch16_224", seed=1)
    assert weights.sha256 == again.sha256
    assert backbone_name(load_detection_config("coco_vitdet_mae.yaml")) == "vit_base_patch16_224"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("TRANSFER.LSJ.SCALES (2.0,0.1)", "TRANSFER.LSJ.SCALES .* two factors, the smaller"),
        ("TRANSFER.LSJ.SCALES (0.1,)", "TRANSFER.LSJ.SCALES"),
        ("TRANSFER.LSJ.CROP_SIZE 0", "TRANSFER.LSJ.CROP_SIZE must be 1 or above"),
        ("TRANSFER.LSJ.CROP_SIZE 160", "CROP_SIZE 160 is more than TRANSFER.VIT.IMAGE_SIZE 128"),
        ("INPUT.MAX_SIZE_TEST 200", "INPUT.MAX_SIZE_TEST 200 is more than"),
        ("TRANSFER.LSJ.SCALES ()", "INPUT.MAX_SIZE_TRAIN 1333 is more than"),
        ("TRANSFER.VIT.IMAGE_SIZE 136", "IMAGE_SIZE 136 must be a multiple of 32"),
        ("TRANSFER.VIT.PATCH_SIZE 14", "PATCH_SIZE 14 must be a power of two"),
        ("TRANSFER.VIT.PATCH_SIZE 8", r"MODEL.RPN.IN_FEATURES .* among the maps \['p1', .*'p5'\]"),
        ("TRANSFER.VIT.HEADS 5", "HEADS 5 must divide the width 192"),
        ("TRANSFER.VIT.DROP_PATH 1.0", "DROP_PATH 1.0 must be in"),
        ("TRANSFER.VIT.GLOBAL_BLOCKS (2,12)", "GLOBAL_BLOCKS 12 is not one of the 12 blocks"),
        ("TRANSFER.LR_LAYER_DECAY 0.0", "LR_LAYER_DECAY 0.0 must be above 0"),
        ("TRANSFER.OPTIMIZER SGD", "LR_LAYER_DECAY 0.7 needs .* AdamW; set 1"),
        ("MODEL.BACKBONE.NAME build_resnet_fpn_backbone", "LR_LAYER_DECAY 0.7 needs build_vit"),
        ("MODEL.FPN.NORM ''", "MODEL.FPN.NORM '' is not possible with the simple feature pyramid"),
        ("MODEL.RPN.CONV_DIMS (64,)", "MODEL.RPN.CONV_DIMS .* give -1"),
        ("MODEL.ROI_HEADS.NAME Res5ROIHeads", "does not work with .*build_vit_sfp_backbone"),
    ],
)
def test_bad_keys(overrides: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_detection_config(CONFIG, overrides.split())


def test_identity() -> None:
    base = protocol_sha256(load_detection_config(CONFIG))
    facts = ("TRANSFER.VIT.PRETRAIN_IMAGE_SIZE", "64", "TRANSFER.VIT.HEADS", "6")
    assert protocol_sha256(load_detection_config(CONFIG, facts)) == base
    for other in ("TRANSFER.LR_LAYER_DECAY 0.8", "TRANSFER.VIT.WINDOW_SIZE 8"):
        assert protocol_sha256(load_detection_config(CONFIG, other.split())) != base
    kept = ROLES.identity(load_detection_config("voc_mscn.yaml"))
    younger = {"VIT", "LSJ", "LR_LAYER_DECAY", "WEIGHT_DECAY_POS_EMBED"}
    assert not younger & set(kept.TRANSFER) and "CONV_DIMS" not in kept.MODEL.RPN


def test_recipe_is_detectron2s() -> None:
    """mask_rcnn_vitdet_b_100ep.py, coco_loader_lsj.py, mask_rcnn_vitdet.py, optim.py there."""
    cfg = load_detection_config("coco_vitdet_mae.yaml")
    solver, vit, jitter = cfg.SOLVER, cfg.TRANSFER.VIT, cfg.TRANSFER.LSJ
    assert (solver.MAX_ITER, tuple(solver.STEPS), solver.GAMMA) == (184375, (163889, 177546), 0.1)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR) == (250, 0.001)
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (64, 1e-4, 0.1)
    assert (solver.WEIGHT_DECAY_NORM, solver.AMP.ENABLED) == (0.0, True)
    assert (cfg.TRANSFER.OPTIMIZER, cfg.TRANSFER.LR_LAYER_DECAY) == ("AdamW", 0.7)
    assert (tuple(jitter.SCALES), jitter.CROP_SIZE) == ((0.1, 2.0), 1024)
    assert (vit.WIDTH, vit.DEPTH, vit.HEADS, vit.PATCH_SIZE) == (768, 12, 12, 16)
    assert (vit.IMAGE_SIZE, vit.WINDOW_SIZE, vit.DROP_PATH) == (1024, 14, 0.1)
    assert tuple(vit.GLOBAL_BLOCKS) == (2, 5, 8, 11) and vit.RELATIVE_POSITIONS
    assert cfg.INPUT.MIN_SIZE_TEST == cfg.INPUT.MAX_SIZE_TEST == 1024
    assert (cfg.INPUT.RANDOM_FLIP, cfg.INPUT.FORMAT) == ("horizontal", "RGB")
    head, masks = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    assert (head.NUM_CONV, head.NUM_FC, head.NORM, head.FC_DIM) == (4, 1, "LN", 1024)
    assert (masks.NUM_CONV, masks.NORM, masks.CONV_DIM) == (4, "LN", 256)
    rpn = cfg.MODEL.RPN
    topk = (rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST)
    assert topk == (2000, 1000) and rpn.POST_NMS_TOPK_TRAIN == rpn.POST_NMS_TOPK_TEST == 1000


def test_rates_of_the_small_config() -> None:
    cfg = load_detection_config(CONFIG)
    detector = DetectorSpec.from_config(cfg).build()
    optimizer = make_optimizer(cfg, detector)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    vit = detector.backbone.net
    assert rates[id(vit.pos_embed)] == pytest.approx(cfg.SOLVER.BASE_LR * 0.7**13)
    assert rates[id(vit.blocks[11].mlp.fc1.bias)] == pytest.approx(cfg.SOLVER.BASE_LR * 0.7)
    assert len(rates) == len(list(detector.parameters()))
