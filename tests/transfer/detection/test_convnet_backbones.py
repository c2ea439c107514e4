"""A detector on one of timm's ConvNets, from a file of weights to a record and back."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.footprints import hardware_line
from pretrain.common.config import find_config
from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from pretrain.data.preprocess import Preprocess
from tests.transfer.checkpoints import builders as files
from tests.transfer.checkpoints.formats_convnets import lukemelas
from tests.transfer.conftest import Interrupted
from tests.transfer.detection.test_task import TINY, model_of
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import random_weights, read_weights
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.footprint import run_needs
from transfer.detection.roles import ROLES, batch_norms
from transfer.detection.task import DetectionTask, check_engine
from transfer.detection.torchvision_engine.detector import DetectorSpec
from transfer.detection.torchvision_engine.load import load_backbone
from transfer.detection.torchvision_engine.timm_convnet import NETWORK
from transfer.detection.weights.starting_weights import (
    read_backbone,
    read_starting_weights,
    with_backbone,
    with_init,
)
from transfer.results.record import read_record
from transfer.training.build import make_optimizer
from transfer.training.optimizer import convnext_layer_factor
from transfer.trials.command import evaluate_request
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
CONFIG, ATTO = "digits_convnext.yaml", "convnext_atto"
LITE = ("MODEL.BACKBONE.NAME", "tf_efficientnet_lite0", "MODEL.RESNETS.NORM", "BN")
LITE = (*LITE, "TRANSFER.LR_LAYER_DECAY", "1.0", "TRANSFER.CONVNET.OUT_NORM", "False")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as pretraining writes it, with a filter."""
    stated = Preprocess(mean=(0.4, 0.5, 0.6), highpass=HighPass(sigma=2.0))
    path = tmp_path_factory.mktemp("weights") / "checkpoint.pth"
    return files.mscn(path, files.trained_state(ATTO), ATTO, preprocess=stated.to_dict())


def request(weights: object, output: Path, *more: str, resume: bool = False) -> Request:
    options = {"engine": "torchvision", "overrides": (*TINY, *more), "resume": resume}
    return Request(CONFIG, str(weights), str(output), **options)


def test_from_our_checkpoint_to_a_record_and_back(
    digits: Path, tmp_path: Path, checkpoint: Path, interrupted_at: Interrupted
) -> None:
    """Killed on the way, it ends with the weights of a run that was not."""
    (path,) = run_trials(TASK, TASK.prepare(request(checkpoint, tmp_path / "a")))
    record = read_record(path)
    assert record["checkpoint"]["backbone"] == ATTO and record["checkpoint"]["source"] == "mscn"
    log = (path.parent / "log.txt").read_text()
    assert "unexpected" not in log and "[102.0, 127.5, 153.0], with which the weights" in log
    with interrupted_at(4):
        run_trials(TASK, TASK.prepare(request(checkpoint, tmp_path / "b")))
    run_trials(TASK, TASK.prepare(request(checkpoint, tmp_path / "b", resume=True)))
    expected, found = model_of(tmp_path / "a"), model_of(tmp_path / "b")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    start = read_weights(str(checkpoint)).state
    moved = [n for n in start if f"{NETWORK}{n}" in found and n != "stem.0.bias"]
    assert not any(torch.equal(start[name], found[f"{NETWORK}{name}"]) for name in moved[:20])
    model = path.parent / "model_final.pth"
    scored = evaluate_request(TASK, request(model, tmp_path / "again"))
    assert scored.metrics == {k: v for k, v in record["metrics"].items() if k in scored.metrics}
    cfg = load_detection_config(CONFIG)
    opened = OpenedWeights(model)
    weights = read_starting_weights(opened, with_init(cfg, opened), 0)
    assert weights.backbone == ATTO and weights.preprocess.highpass == HighPass(sigma=2.0)
    with pytest.raises(InputError, match="a network of timm: set MODEL.BACKBONE.NAME"):
        other = load_detection_config("digits_voc.yaml")
        read_starting_weights(opened, with_init(other, opened), 0)


def test_every_key_has_its_fate() -> None:
    weights = random_weights(ATTO, seed=3)
    cfg = with_backbone(load_detection_config(CONFIG), weights)
    detector = DetectorSpec.from_config(cfg).build()
    report = load_backbone(detector, weights)
    assert report.unexpected == []
    assert len(report.matched) == len(weights.state) - 2, "no norm after pooling"
    for name in report.matched:
        assert torch.equal(detector.state_dict()[name], weights.state[name[len(NETWORK) :]])
    parts = ("backbone.fpn_", "proposal_generator.", "roi_heads.", "backbone.bottom_up.out_norms.")
    assert all(name.startswith(parts) for name in report.expected_missing)
    lost = {k: v for k, v in weights.state.items() if k != "stages.2.blocks.3.gamma"}
    with pytest.raises(InputError, match="network.stages.2.blocks.3.gamma"):
        load_backbone(detector, replace(weights, state=lost))
    more = {**weights.state, "stages.4.gamma": torch.ones(3)}
    with pytest.raises(InputError, match="network.stages.4.gamma"):
        load_backbone(detector, replace(weights, state=more))


def test_a_wrong_pair_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.save(files.trained_state("tiny_resnet"), tmp_path / "r.pth")
    cfg = load_detection_config(CONFIG)
    with pytest.raises(InputError, match="r.pth is a tiny_resnet, but .* convnext_atto: choose"):
        read_backbone(OpenedWeights(tmp_path / "r.pth"), cfg, seed=0)
    torch.save(files.trained_state(ATTO), tmp_path / "c.pth")
    femto = ("MODEL.BACKBONE.NAME", "convnext_femto")
    for keys, reason in (
        (LITE, "but a tf_efficientnet_lite0 is needed"),
        (femto, f"but the config builds a convnext_femto: .* with MODEL.BACKBONE.NAME {ATTO}$"),
    ):
        other = load_detection_config(CONFIG, keys)
        needed = f"c.pth is a {ATTO}, {reason}"
        with pytest.raises(InputError, match=needed) as caught:
            read_backbone(OpenedWeights(tmp_path / "c.pth"), other, seed=0)
        assert "\n" not in str(caught.value)


def test_facts_of_released_weights_win(tmp_path: Path) -> None:
    state = files.trained_state("tf_efficientnet_lite0")
    torch.save(lukemelas(state), tmp_path / "lite.pth")
    cfg = load_detection_config(CONFIG, LITE)
    weights = read_backbone(OpenedWeights(tmp_path / "lite.pth"), cfg, seed=0)
    found = with_backbone(cfg, weights)
    assert (found.INPUT.FORMAT, list(found.MODEL.PIXEL_MEAN)) == ("RGB", [127.0] * 3)
    assert list(found.MODEL.PIXEL_STD) == [128.0] * 3
    report = load_backbone(DetectorSpec.from_config(found).build(), weights)
    assert report.unexpected == [] and len(report.matched) > 200


def test_random_weights_warn_of_frozen_batch_norm_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_backbone(OpenedWeights("random"), load_detection_config(CONFIG), seed=1)
        assert not caplog.records
        frozen = (*LITE[:3], "FrozenBN", *LITE[4:])
        read_backbone(OpenedWeights("random"), load_detection_config(CONFIG, frozen), seed=1)
    assert "are not normalised" in caplog.text


def test_the_detectron2_engine_refuses_by_name() -> None:
    cfg = load_detection_config(CONFIG)
    check_engine(cfg, "torchvision")
    with pytest.raises(InputError, match="MODEL.BACKBONE.NAME convnext_atto .* torchvision"):
        check_engine(cfg, "detectron2")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (LITE[:4], "LR_LAYER_DECAY 0.95 needs .* or a ConvNeXt"),
        (("TRANSFER.OPTIMIZER", "SGD"), "LR_LAYER_DECAY 0.95 needs .* AdamW"),
        (("MODEL.BACKBONE.NAME", "convnext_atto_ols"), "LR_LAYER_DECAY 0.95 needs"),
    ],
)
def test_layers_that_have_no_rates_are_refused(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_detection_config(CONFIG, keys)


def test_identity() -> None:
    base = protocol_sha256(load_detection_config(CONFIG))
    for other in ("LR_LAYER_DECAY 0.9", "CONVNET.DROP_PATH 0.2", "CONVNET.OUT_NORM False"):
        keys = f"TRANSFER.{other}".split()
        assert protocol_sha256(load_detection_config(CONFIG, keys)) != base
    kept = ROLES.identity(load_detection_config("voc_mscn.yaml"))
    assert "CONVNET" not in kept.TRANSFER
    assert batch_norms(load_detection_config(CONFIG)) == set()
    assert batch_norms(load_detection_config(CONFIG, LITE)) == {"BN"}


# The groups of mmcv_custom/layer_decay_optimizer_constructor.py for a ConvNeXt-T (6) and -S (12).
GROUPS = {
    9: {
        "stem.0.weight": 0,
        "stages.0.blocks.2.gamma": 1,
        "stages.1.downsample.1.weight": 2,
        "stages.1.blocks.0.norm.bias": 2,
        "stages.2.downsample.0.weight": 3,
        "stages.2.blocks.2.gamma": 3,
        "stages.2.blocks.3.gamma": 4,
        "stages.2.blocks.8.gamma": 5,
        "stages.3.downsample.1.bias": 6,
        "stages.3.blocks.2.mlp.fc1.weight": 6,
    },
    27: {"stem.1.bias": 0, "stages.2.blocks.26.gamma": 11, "stages.3.blocks.0.gamma": 12},
}


@pytest.mark.parametrize("blocks", GROUPS)
def test_rates_are_the_authors(blocks: int) -> None:
    last = 6 if blocks == 9 else 12
    above = {name: last + 1 for name in ("backbone.fpn_lateral2.weight", "roi_heads.x.weight")}
    above["backbone.bottom_up.out_norms.res2.weight"] = last + 1
    groups = {f"{NETWORK}{name}": group for name, group in GROUPS[blocks].items()}
    for name, group in {**groups, **above}.items():
        factor = convnext_layer_factor(name, decay=0.7, blocks=blocks)
        assert factor == pytest.approx(0.7 ** (last + 1 - group)), name


def test_rates_and_decays_of_the_small_config() -> None:
    cfg = load_detection_config(CONFIG)
    detector = DetectorSpec.from_config(cfg).build()
    optimizer = make_optimizer(cfg, detector)
    found = {
        id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
    }
    network, rate = detector.backbone.bottom_up.network, cfg.SOLVER.BASE_LR
    # Six blocks in the third stage: groups 0 to 5, and 6 above them.
    assert found[id(network.stem[0].weight)] == (pytest.approx(rate * 0.95**6), 0.05)
    block = network.stages[2].blocks[4]
    assert found[id(block.gamma)] == (pytest.approx(rate * 0.95**2), 0.0)
    assert found[id(block.conv_dw.weight)] == (pytest.approx(rate * 0.95**2), 0.05)
    norm = detector.backbone.bottom_up.out_norms["res3"]
    assert found[id(norm.weight)] == (rate, 0.0)
    assert len(found) == len(list(detector.parameters()))
    flat = [p for p in detector.parameters() if p.dim() == 1]
    assert all(found[id(p)][1] == 0.0 for p in flat)


def test_the_recipe_is_the_authors() -> None:
    """mask_rcnn_convnext_tiny_patch4_window7_mstrain_480-800_adamw_3x_coco_in1k.py there."""
    cfg = load_detection_config("coco_mscn_convnext_fpn.yaml")
    solver, net = cfg.SOLVER, cfg.TRANSFER.CONVNET
    epoch = 7330  # 117,266 images with objects, 16 an iteration
    assert -(-117266 // solver.IMS_PER_BATCH) == epoch
    assert (solver.MAX_ITER, tuple(solver.STEPS)) == (36 * epoch, (27 * epoch, 33 * epoch))
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.GAMMA) == (1e-4, 0.05, 0.1)
    assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_BIAS) == (0.0, 0.0)
    assert (solver.WARMUP_ITERS, solver.WARMUP_FACTOR, solver.AMP.ENABLED) == (500, 0.001, True)
    assert (cfg.TRANSFER.OPTIMIZER, cfg.TRANSFER.LR_LAYER_DECAY) == ("AdamW", 0.95)
    assert (net.DROP_PATH, net.OUT_NORM, cfg.MODEL.BACKBONE.FREEZE_AT) == (0.4, True, 0)
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == tuple(range(480, 801, 32))
    assert cfg.MODEL.FPN.NORM == "" and (cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.MASK_ON) == (
        2,
        True,
    )


@pytest.mark.slow
def test_the_header_says_what_a_step_needs() -> None:
    name = "coco_mscn_convnext_fpn.yaml"
    cost = run_needs(load_detection_config(name), 8).cost
    entry = {"processes": 8, "gib": round(cost.peak_bytes / 2**30, 2)}
    line = hardware_line({**entry, "tflop": float(f"{cost.flops / 1e12:.4g}")})
    assert line in find_config(name, "detection").read_text(encoding="utf-8").splitlines()
