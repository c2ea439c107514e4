"""How a detector's input was normalised: from its file, the config next to it, or a warning."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from fvcore.common.config import CfgNode

from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights
from transfer.detection.config import changed, load_detection_config
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.load import load_model
from transfer.detection.weights.scored_detector import with_detector
from transfer.detection.weights.starting_weights import read_starting_weights, with_init
from transfer.training.files import read_model, write_model

CONFIG = "digits_voc.yaml"
STATED = {
    "MODEL": {
        "PIXEL_MEAN": [100.0, 110.0, 120.0],
        "PIXEL_STD": [50.0, 60.0, 70.0],
        "RESNETS": {"STRIDE_IN_1X1": True, "DEFORM_MODULATED": True},
        "KEYPOINT_ON": True,  # not looked at
    },
    "INPUT": {"FORMAT": "BGR"},
    "MY_PROJECT": {"KEY": 1},
}
# A model of Detectron2, and what a different config would say of its input.
WORDS = [
    *("MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "DATASETS.TEST", ("x",)),
    *("MODEL.PIXEL_STD", [57.0, 58.0, 59.0], "MODEL.ROI_HEADS.NUM_CLASSES", 3),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 20),
]
WRONG = {
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file as Detectron2 writes it: only tensors."""
    path = tmp_path / "model_final.pth"
    torch.save({"model": make_detector(config(), Preprocess()).state_dict()}, path)
    return path


def config() -> CfgNode:
    return load_detection_config(CONFIG)


def node(tree: dict) -> CfgNode:
    return CfgNode({k: node(v) if isinstance(v, dict) else v for k, v in tree.items()})


WRITERS = {
    "yaml": lambda path: path.write_text(yaml.safe_dump(STATED)),
    "python tags": lambda path: path.write_text(yaml.dump(node(STATED))),
    "pickle": lambda path: path.write_bytes(pickle.dumps(node(STATED))),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_the_config_beside_decides(
    model: Path, writer: str, caplog: pytest.LogCaptureFixture
) -> None:
    beside = model.with_name("config.yaml")
    WRITERS[writer](beside)
    with caplog.at_level(logging.INFO, logger="transfer"):
        cfg = with_detector(config(), OpenedWeights(model), CONFIG)
    assert f"MODEL.RESNETS.STRIDE_IN_1X1 are those of {beside}" in caplog.text
    assert cfg.INPUT.FORMAT == "BGR" and cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert cfg.MODEL.PIXEL_MEAN == [100.0, 110.0, 120.0]
    assert cfg.MODEL.PIXEL_STD == [50.0, 60.0, 70.0]
    assert "does not say how" not in caplog.text
    for init in ("auto", "backbone"):
        begun = with_init(
            load_detection_config(CONFIG, ("TRANSFER.INIT", init)), OpenedWeights(model)
        )
        weights = read_starting_weights(OpenedWeights(model), begun, 0)
        assert weights.preprocess.std == (50.0, 60.0, 70.0)
        assert weights.preprocess.channel_order == "BGR"
        assert weights.architecture == {"stride_in_1x1": True}


@pytest.mark.parametrize("text", [None, "model: {pixel_std: [1, 2, 3]}", "MODEL: ["])
def test_nothing_beside_is_one_warning(
    model: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is absent, of a different kind, or not readable."""
    if text is not None:
        model.with_name("config.yaml").write_text(text)
    for _ in range(2):
        cfg = with_detector(config(), OpenedWeights(model), CONFIG)
    assert cfg == config()
    found = [r.getMessage() for r in caplog.records if "how its input was" in r.getMessage()]
    assert len(found) == 1 and "INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [" in found[0]
    unreadable = [r for r in caplog.records if "not readable as YAML" in r.getMessage()]
    assert bool(unreadable) == (text == "MODEL: [")


def test_the_file_itself_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = Preprocess((0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    state = make_detector(config(), Preprocess()).state_dict()
    path = write_model(
        tmp_path, state, iteration=1, preprocess=pixels, architecture={}, seconds=1.0
    )
    tree = {**STATED, "MODEL": {**STATED["MODEL"], "ANCHOR_GENERATOR": {"SIZES": [[99]]}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    cfg = with_detector(config(), OpenedWeights(path), CONFIG)
    assert cfg.MODEL.PIXEL_STD == [51.0, 51.0, 51.0] and cfg.INPUT.FORMAT == "RGB"
    (line,) = [r.getMessage() for r in caplog.records if "in use" in r.getMessage()]
    assert "MODEL.ANCHOR_GENERATOR.SIZES [[99]] (in use: [[" in line


@pytest.mark.detectron2
def test_a_model_of_detectron2_beside_its_dump(tmp_path: Path) -> None:
    """Detectron2 writes model and config; its own inference and ours then agree bit for bit."""
    pytest.importorskip("detectron2.modeling")
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    theirs = get_cfg()
    theirs.merge_from_list(WORDS)
    torch.manual_seed(0)
    model = build_model(theirs).eval()
    DetectionCheckpointer(model, str(tmp_path)).save("model_final")
    (tmp_path / "config.yaml").write_text(theirs.dump())
    cfg = load_detection_config(str(tmp_path / "config.yaml"))
    path = tmp_path / "model_final.pth"
    cfg = with_detector(changed(cfg, WRONG), OpenedWeights(path), "config.yaml")
    ours = make_detector(cfg, Preprocess())
    load_model(ours, read_model(path).state)
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    sample = [{"image": image, "height": 70, "width": 90}]
    with torch.no_grad():
        expected = model(sample)[0]["instances"]
        (found,) = ours.eval()(sample)
    assert len(found) > 0
    assert torch.equal(found.boxes, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
