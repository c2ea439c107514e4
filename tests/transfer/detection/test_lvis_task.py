"""A detector is trained and scored on a small set in LVIS's layout; the shipped configs load."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pretrain.common.errors import InputError
from tests.transfer.detection.test_task import TASK, TINY
from tests.transfer.lvis_files import lvis_content, write_lvis
from transfer.detection.config import load_detection_config, protocol_sha256
from transfer.detection.evaluation.lvis import NAMES
from transfer.results.metrics import headlines
from transfer.results.record import read_record
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

needs_lvis = pytest.mark.skipif(
    importlib.util.find_spec("lvis") is None, reason="needs lvis: pip install --no-deps lvis"
)


def request(root: Path, output: Path) -> Request:
    train = write_lvis(root, "train", lvis_content("train", 6))
    val = write_lvis(root, "val", lvis_content("val", 4, seed=1))
    overrides = (
        *TINY,
        *("DATASETS.TRAIN", f"('{train}',)", "DATASETS.TEST", f"('{val}',)"),
        *("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        *("DATALOADER.REPEAT_THRESHOLD", "0.9", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0001"),
        *("TEST.DETECTIONS_PER_IMAGE", "300"),
    )
    return Request("digits_coco.yaml", "random", str(output), "torchvision", overrides=overrides)


@needs_lvis
def test_a_record_of_lvis(tmp_path: Path) -> None:
    (path,) = run_trials(TASK, TASK.prepare(request(tmp_path / "data", tmp_path / "run")))
    record = read_record(path)
    expected = {f"{kind}/{name}" for kind in ("bbox", "segm") for name in NAMES}
    assert set(record["metrics"]) == expected
    assert set(record["per_class"]["segm/AP"]) == {f"class_{i}" for i in range(1, 7)}
    assert "replicates" in record["artifacts"] and "pr_curves" in record["artifacts"]
    shown = headlines("detection", record["metrics"])
    assert shown == ["bbox/AP", "bbox/AP50", "segm/AP", "segm/APr", "segm/APc", "segm/APf"]


def test_a_missing_package_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n == "lvis" else find(n))
    with pytest.raises(InputError, match="pip install --no-deps lvis"):
        TASK.prepare(request(tmp_path / "data", tmp_path / "run"))


def test_the_shipped_protocol() -> None:
    cfg = load_detection_config("lvis_mscn_fpn.yaml")
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1203 and cfg.TEST.DETECTIONS_PER_IMAGE == 300
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 1e-4
    assert cfg.DATALOADER.SAMPLER_TRAIN == "RepeatFactorTrainingSampler"
    assert cfg.DATALOADER.REPEAT_THRESHOLD == 1e-3
    assert tuple(cfg.SOLVER.STEPS) == (120_000, 160_000) and cfg.SOLVER.MAX_ITER == 180_000
    for name in ("lvis_supervised_fpn.yaml", "lvis_random_fpn.yaml"):
        assert protocol_sha256(load_detection_config(name)) == protocol_sha256(cfg)
