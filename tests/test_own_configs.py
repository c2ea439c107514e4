"""Configs for a user's own data: they say what is missing, and can be built with any data."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT, load_config
from pretrain.common.errors import InputError
from pretrain.engine.checks import load_checked
from transfer.classification.defaults import get_defaults
from transfer.classification.splits import open_splits
from transfer.detection.config import backbone_name, load_detection_config
from transfer.detection.config_checks import check_train_named

OWN = sorted((CHECKOUT / "configs").rglob("own_*.yaml"))
DETECTION = [path.name for path in OWN if path.parent.name == "detection"]
DATA = ("DATASETS.TRAIN", "voc:x:train", "DATASETS.TEST", "voc:x:val")


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_header(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    text = " ".join(line for line in lines if line.startswith("#")).lower()
    for word in (
        "reproduces: no published number",
        "source",
        "data",
        "hardware",
        "published number",
    ):
        assert word in text, f"{path}: the header says nothing of '{word}'"
    assert "scale" in text or "as own_" in text, path


@pytest.mark.parametrize("name", ["own_mscn_r50.yaml", "own_mscn_r18.yaml"])
def test_pretraining(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} leaves the data to you: add DATASETS.TRAIN fold"):
        load_checked(name, (), 1)
    cfg = load_checked(name, ("DATASETS.TRAIN", "folder:x"), 1)
    assert cfg.VIEWS.SIZE == 224 and cfg.METHOD.NAME == "mscn" and not cfg.DATASETS.KNN_TRAIN
    assert cfg.BACKBONE.NAME == ("resnet50" if "r50" in name else "resnet18")
    assert not cfg.DATALOADER.CACHE_DECODED  # photographs are large
    rate = cfg.SOLVER.LR_PER_256 * cfg.SOLVER.BATCH_SIZE / 256
    assert rate == pytest.approx(0.075 * cfg.SOLVER.BATCH_SIZE**0.5)  # SimCLR, small batches


@pytest.mark.parametrize("name", DETECTION)
def test_detection(name: str) -> None:
    kind = "coco" if "mask" in name else "voc"  # VOC files hold no masks
    train, test = f"DATASETS.TRAIN {kind}:FOLDER:train", f"DATASETS.TEST {kind}:FOLDER:test"
    for given, missing in (((), f"{train} {test}"), (DATA[:2], test), (DATA[2:], train)):
        with pytest.raises(InputError, match=f"leaves the data to you: add {missing}( |$)"):
            check_train_named(load_detection_config(name, given))
    cfg = load_detection_config(name, DATA)
    assert backbone_name(cfg) == ("resnet18" if "r18" in name else "resnet50")
    assert cfg.MODEL.MASK_ON == ("mask" in name)
    solver = cfg.SOLVER
    assert solver.BASE_LR / solver.IMS_PER_BATCH == pytest.approx(0.02 / 16)  # the field's ratio
    assert solver.STEPS == (solver.MAX_ITER * 3 // 4, solver.MAX_ITER * 11 // 12)


def test_all_architectures_are_there() -> None:
    names = {"own_fpn", "own_fpn_r18", "own_c4", "own_mask", "own_mask_r18"}
    assert {Path(name).stem for name in DETECTION} == names


@pytest.mark.parametrize("name", ["own_knn", "own_linear", "own_finetune"])
def test_classification(name: str) -> None:
    cfg = load_config(f"{name}.yaml", get_defaults())
    assert cfg.PROTOCOL.NAME == name.removeprefix("own_") and cfg.PROTOCOL.IMAGE_SIZE == 224
    train, test = "DATASETS.TRAIN folder:FOLDER:train", "DATASETS.TEST folder:FOLDER:val"
    with pytest.raises(InputError, match=f"to you: add {train} {test}$"):
        open_splits(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)
    with pytest.raises(InputError, match=f"to you: add {test}$"):
        open_splits("folder:x:train", cfg.DATASETS.TEST)
