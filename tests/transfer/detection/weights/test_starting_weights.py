"""Starting from a complete detector's file: what is loaded or refused, what the record says."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.files import RANDOM
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import random_weights
from transfer.checkpoints.weights import Weights, tensors_sha256
from transfer.detection.config import (
    changed,
    load_detection_config,
    protocol_sha256,
    with_preprocess,
)
from transfer.detection.scaling import differences
from transfer.detection.task import DetectionTask
from transfer.detection.torchvision_engine import engine
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.load import load_backbone
from transfer.detection.weights.detector_file import DETECTOR, DetectorWeights, kind_of
from transfer.detection.weights.starting_weights import (
    read_backbone,
    read_starting_weights,
    with_backbone,
    with_init,
)
from transfer.results.record import read_record
from transfer.training.files import write_model
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN 64 "
    "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 0"
).split()
THREE = ("MODEL.ROI_HEADS.NUM_CLASSES", "3")
PIXELS = Preprocess(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), channel_order="BGR")


def make_state(config: str = "digits_voc.yaml", *words: str) -> dict[str, Tensor]:
    torch.manual_seed(1)
    cfg = load_detection_config(config, words)
    return engine.make_detector(cfg, Preprocess()).state_dict()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model_final.pth of the digits' detector with three classes."""
    facts = {"preprocess": PIXELS, "architecture": {}, "seconds": 1.0}
    folder = tmp_path_factory.mktemp("model")
    return write_model(folder, make_state("digits_voc.yaml", *THREE), iteration=1, **facts)


def start(path: Path | str, config: str = "digits_voc.yaml", *words: str) -> Weights:
    cfg = with_init(load_detection_config(config, words), OpenedWeights(path))
    return read_starting_weights(OpenedWeights(path), cfg, 0)


def test_a_file_of_each_kind_is_told_by_its_keys(model: Path, tmp_path: Path) -> None:
    cfg, untrained = load_detection_config("digits_voc.yaml"), OpenedWeights(RANDOM)
    assert with_init(cfg, OpenedWeights(model)).TRANSFER.INIT == "detector"
    assert with_init(cfg, untrained).TRANSFER.INIT == "backbone"
    trunk = read_starting_weights(untrained, with_init(cfg, untrained), 0)
    torch.save(dict(trunk.state), tmp_path / "trunk.pth")
    assert with_init(cfg, OpenedWeights(tmp_path / "trunk.pth")).TRANSFER.INIT == "backbone"
    backbone = load_detection_config("digits_voc.yaml", ("TRANSFER.INIT", "backbone"))
    assert with_init(backbone, OpenedWeights(model)).TRANSFER.INIT == "backbone"
    detector = load_detection_config("digits_voc.yaml", ("TRANSFER.INIT", DETECTOR))
    with pytest.raises(InputError, match="INIT is detector, but .*trunk.pth is not one"):
        with_init(detector, OpenedWeights(tmp_path / "trunk.pth"))


def test_what_fits_arrives_and_the_rest_is_drawn(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the torchvision engine: each tensor is the file's, or that of the seed."""
    with caplog.at_level(logging.INFO, logger="transfer"):
        weights = start(model)
    assert isinstance(weights, DetectorWeights)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("start: ")]
    assert lines[0] == f"start: the complete detector of {model}"
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "backbone", "RPN", "box head", "box predictor",
    ]  # fmt: skip
    assert lines[-1].endswith("initialisation, as expected: 3 classes in the file, 10 here")
    state = torch.load(model, weights_only=True)["model"]
    cfg = with_preprocess(load_detection_config("digits_voc.yaml"), weights.preprocess)
    torch.manual_seed(cfg.SEED)
    built = engine.make_started_detector(cfg, weights).state_dict()
    torch.manual_seed(cfg.SEED)
    drawn = engine.make_detector(cfg, Preprocess()).state_dict()
    for name, value in built.items():
        source = drawn if "predictor" in name or name.endswith("tracked") else state
        assert torch.equal(value, source[name]), name
    assert any(not torch.equal(drawn[name], built[name]) for name in built)


def test_the_identity_is_the_whole_detectors(model: Path) -> None:
    weights = start(model)
    state = torch.load(model, weights_only=True)["model"]
    assert weights.sha256 == tensors_sha256(state)
    assert weights.backbone == "tiny_resnet" and weights.preprocess == PIXELS
    trunk = start(model, "digits_voc.yaml", "TRANSFER.INIT", "backbone")
    assert type(trunk) is Weights and trunk.sha256 == tensors_sha256(weights.state)
    assert trunk.sha256 != weights.sha256 and trunk.preprocess == PIXELS
    assert torch.equal(trunk.state["conv1.weight"], state["backbone.stem.conv1.weight"])


def test_a_zoo_file_says_nothing_of_its_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last stage of a C4 detector's ResNet is in its head; the config's pixels are taken."""
    words = ("MODEL.RESNETS.DEPTH", "50", "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
    state = make_state("voc_supervised_msra.yaml", *words, "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    arrays = {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    arrays["pixel_mean"] = np.zeros((3, 1, 1), np.float32)
    path = tmp_path / "model_final_123.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    with caplog.at_level(logging.INFO, logger="transfer"):
        weights = start(path, "voc_supervised_msra.yaml")
    lines = [record.getMessage() for record in caplog.records]
    fate = "4 tensors start at their initialisation, as expected: the file has none"
    assert f"start: extra norm: {fate}" in lines
    assert lines[-1].endswith("80 classes in the file, 20 here")
    assert weights.backbone == "resnet50" and "layer4.2.conv3.weight" in weights.state
    cfg = load_detection_config("voc_supervised_msra.yaml")
    assert with_preprocess(cfg, weights.preprocess, weights.architecture) == cfg
    assert weights.architecture == {"stride_in_1x1": True}
    unsaid = [line for line in lines if "does not say how its input was normalised" in line]
    assert (
        len(unsaid) == 1 and "INPUT.FORMAT BGR" in unsaid[0] and "STRIDE_IN_1X1 True" in unsaid[0]
    )
    assert weights.provenance["name"] == "model_final_123"


def test_a_vitdets_own_model(digits: Path, tmp_path: Path) -> None:
    """All of it arrives, bit-equal, where the config says another size of the ViT's images."""
    config, words = "digits_vitdet.yaml", (
        *TINY,
        *"SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1".split(),
    )
    torch.save(random_weights("vit_tiny_patch16_32", seed=3).state, tmp_path / "vit.pth")

    def run(weights: Path, name: str) -> Path:
        request = Request(config, str(weights), str(tmp_path / name), engine="torchvision")
        return run_trials(TASK, TASK.prepare(Request(**{**vars(request), "overrides": words})))[0]

    model = run(tmp_path / "vit.pth", "first").parent / "model_final.pth"
    path = run(model, "second")
    parts = re.findall(r" start: (.*): (\d+) tensors loaded", (path.parent / "log.txt").read_text())
    assert dict(parts) == {
        "simple feature pyramid": "32", "backbone": "171", "RPN": "8", "box head": "5",
        "box predictor": "4",
    }  # fmt: skip
    weights, record = start(model, config), read_record(path)
    assert record["checkpoint"]["source"] == "detector"
    assert record["checkpoint"]["sha256"] == weights.sha256
    state = torch.load(model, weights_only=True)["model"]
    built = built_from(weights, config)
    assert isinstance(weights, DetectorWeights) and weights.backbone == "vit_tiny_patch16_32"
    assert built.keys() == state.keys() == weights.fitting.keys()
    assert all(torch.equal(value, state[name]) for name, value in built.items())
    trunk = start(model, config, "TRANSFER.INIT", "backbone")
    assert type(trunk) is Weights and len(trunk.state) == 147, "no relative position"
    built = built_from(trunk, config)
    for name, value in trunk.state.items():
        assert torch.equal(built[f"backbone.net.{name}"], value) and value.dtype == torch.float32
        assert torch.equal(value, state[f"backbone.net.{name}"])


def built_from(weights: Weights, config: str) -> dict[str, Tensor]:
    """State of the detector before its first iteration."""
    cfg = with_backbone(load_detection_config(config), weights)
    torch.manual_seed(cfg.SEED)
    return engine.make_started_detector(cfg, weights).state_dict()


def test_a_vits_file_in_vitdets_names_is_a_backbone(tmp_path: Path) -> None:
    state = {
        f"backbone.net.{k}": v for k, v in random_weights("vit_tiny_patch16_32", 3).state.items()
    }
    path = save(tmp_path / "vit.pth", state)
    cfg = load_detection_config("digits_vitdet.yaml")
    assert with_init(cfg, OpenedWeights(path)).TRANSFER.INIT == "backbone"


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    words = ("MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64")
    fpn18 = save(tmp_path / "fpn18.pth", make_state("voc_fpn.yaml", *words))
    with pytest.raises(InputError, match="fpn18.pth is a resnet18, but the config builds a res"):
        start(fpn18, "voc_fpn.yaml")
    tiny = make_state()
    with pytest.raises(InputError, match="is a resnet18, but the config builds a tiny_resnet"):
        start(fpn18)
    with pytest.raises(InputError, match="is a FPN detector, but the config builds C4.*backbone"):
        state = {k: v for k, v in make_state("voc_fpn.yaml").items()}
        start(save(tmp_path / "fpn50.pth", state), "voc_mscn.yaml")
    broken = {name: value for name, value in tiny.items() if "res3.0.conv1" not in name}
    with pytest.raises(InputError, match="not a complete tiny_resnet .*missing: layer2.0.conv1"):
        start(save(tmp_path / "broken.pth", broken))
    none = {name: value for name, value in tiny.items() if not name.startswith("backbone.")}
    with pytest.raises(InputError, match="is neither a known ResNet nor a known ViT"):
        start(save(tmp_path / "none.pth", none))


def test_another_meta_architecture(tmp_path: Path) -> None:
    """RetinaNet's names: its backbone serves, its heads have no place."""
    state = {name: value for name, value in make_state().items() if name.startswith("backbone.")}
    state["head.cls_subnet.0.weight"] = torch.zeros(2)
    path = save(tmp_path / "retina.pth", state)
    with pytest.raises(InputError, match="its meta-architecture is not GeneralizedRCNN"):
        start(path)
    weights = start(path, "digits_voc.yaml", "TRANSFER.INIT", "backbone")
    assert type(weights) is Weights and weights.backbone == "tiny_resnet"


def test_it_is_a_protocol_of_its_own() -> None:
    shas = {
        init: protocol_sha256(load_detection_config("voc_mscn.yaml", ("TRANSFER.INIT", init)))
        for init in ("auto", "backbone", "detector")
    }
    assert shas["auto"] == shas["backbone"] != shas["detector"]


def test_a_run_and_its_record(digits: Path, model: Path, tmp_path: Path) -> None:
    request = Request("digits_voc.yaml", str(model), str(tmp_path), engine="torchvision")
    request = Request(**{**vars(request), "overrides": tuple(TINY)})
    job = TASK.prepare(request)
    (path,) = run_trials(TASK, job)
    record = read_record(path)
    assert record["checkpoint"]["name"] == "model_final"
    begun = read_starting_weights(OpenedWeights(model), job.cfg, 0)
    assert record["checkpoint"]["sha256"] == begun.sha256
    assert record["checkpoint"]["source"] == "detector"
    assert record["protocol"]["config_sha256"] == protocol_sha256(job.cfg)
    shipped = load_detection_config("digits_voc.yaml")
    assert ("TRANSFER.INIT", "off", "detector") in list(differences(shipped, job.cfg))
    assert "start: RPN: 6 tensors loaded" in (path.parent / "log.txt").read_text()
    assert kind_of(OpenedWeights(path.parent / "model_final.pth")) == DETECTOR


@pytest.mark.parametrize("classes", [("b", "c", "a"), ("a", "b", "x")])
def test_a_start_compares_names(
    tmp_path: Path, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """Both engines train from `fitting`."""
    cfg = changed(load_detection_config("digits_voc.yaml"), {"MODEL.ROI_HEADS.NUM_CLASSES": 3})
    state = make_detector(cfg, Preprocess()).state_dict()
    facts = {"preprocess": Preprocess(), "architecture": {}, "seconds": 1.0}
    path = write_model(tmp_path, state, iteration=1, classes=("a", "b", "c"), **facts)
    cfg = with_init(cfg, OpenedWeights(path))
    with caplog.at_level(logging.INFO, logger="transfer"):
        weights = read_starting_weights(OpenedWeights(path), cfg, 0, classes)
    assert isinstance(weights, DetectorWeights)
    scores = "roi_heads.box_predictor.cls_score.weight"
    if "x" in classes:
        assert scores not in weights.fitting
        assert (
            "initialisation, as expected: its classes are a, b, c, those of the data a, b, x"
            in caplog.text
        )
    else:
        assert torch.equal(weights.fitting[scores], state[scores][[1, 2, 0, 3]])
        assert "mapped by name" in caplog.text
    same = read_starting_weights(OpenedWeights(path), cfg, 0, ("a", "b", "c"))
    assert same.sha256 == weights.sha256, "the identity is the file's, whatever the order"
    assert torch.equal(same.fitting[scores], state[scores])
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("norm", ["GN", ""])
def test_norms_that_no_backbones_weights_fit(tmp_path: Path, norm: str) -> None:
    """Refused as a key; random weights give the config's own norm."""
    from torchvision.models import resnet18

    words = "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.RESNETS.NORM".split()
    cfg = load_detection_config("voc_fpn.yaml", [*words, norm])
    path = tmp_path / "r18.pth"
    torch.save(resnet18().state_dict(), path)
    with pytest.raises(InputError, match=f"MODEL.RESNETS.NORM '{norm}' cannot hold the batch"):
        read_backbone(OpenedWeights(path), cfg, 0)
    weights = read_backbone(OpenedWeights(RANDOM), cfg, 3)
    detector = make_detector(cfg, Preprocess())
    assert not load_backbone(detector, weights).unexpected
    conv = detector.backbone.bottom_up.stem.conv1
    assert torch.equal(conv.weight, weights.state["conv1.weight"])
    assert (conv.norm is None) == (norm == "") and conv.bias is None
