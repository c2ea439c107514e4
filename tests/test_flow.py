"""All commands one after the other, small: pretrain, convert, classify, detect, compare."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.digits.dataset import make_digits
from tools.convert_weights import main as convert
from tools.report import main as report
from tools.train_cls import main as classify
from tools.train_det import main as detect
from tools.train_ssl import main as pretrain

# What is common to both image sources: seconds, not minutes.
SHORT_PRETRAINING = (
    "SOLVER.MAX_STEPS 3 SOLVER.BATCH_SIZE 8 SOLVER.WARMUP_STEPS 1 DATASETS.LIMIT_PER_CLASS 4"
    " KNN.TRAIN_LIMIT 40 KNN.TEST_LIMIT 20 KNN.K 5 DATALOADER.CACHE_DECODED False"
)
SHORT_DETECTION = (
    "SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 SOLVER.IMS_PER_BATCH 2"
    " TRANSFER.LIMIT_IMAGES 4 DATALOADER.NUM_WORKERS 0"
)


def run(folder: Path, images: str, detection: str, extra_detection: str = "") -> list[dict]:
    """Runs the commands with data from `images` and a detection config; the report's rows."""
    train, test = f"folder:{images}:train", f"folder:{images}:val"
    views = f"DATASETS.TRAIN {train} DATASETS.KNN_TRAIN {train} DATASETS.KNN_TEST {test}"
    mscn, weights = str(folder / "mscn"), str(folder / "mscn" / "backbone.pkl")
    overrides = f"{SHORT_PRETRAINING} {views}".split()
    assert pretrain(["--config", "mscn_demo.yaml", "--output", mscn, *overrides]) == 0
    assert convert([f"{mscn}/checkpoint.pth", weights]) == 0
    for name, source in (("mscn", weights), ("untrained", "random")):
        common = ["--weights", source, "--name", name, "--output"]
        data = (
            f"DATASETS.TRAIN {train} DATASETS.TEST {test} PROTOCOL.K (5,) DATALOADER.NUM_WORKERS 0"
        )
        data += " DATASETS.LIMIT_PER_CLASS 4 DATASETS.TEST_LIMIT_PER_CLASS 4"
        output = str(folder / "knn" / name)
        assert classify(["--config", "knn_digits.yaml", *common, output, *data.split()]) == 0
        output = str(folder / "boxes" / name)
        short = f"{SHORT_DETECTION} {extra_detection}".split()
        assert detect(["--config", detection, *common, output, *short]) == 0
    assert report([str(folder), "--output", str(folder / "report")]) == 0
    with (folder / "report" / "report.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def check(rows: list[dict], folder: Path) -> None:
    found = {(row["checkpoint"], row["metric"]) for row in rows}
    for name in ("mscn", "untrained"):
        assert {(name, "knn5_top1"), (name, "bbox/AP"), (name, "bbox/AP50")} <= found
    percents = [row for row in rows if not row["metric"].startswith("features/")]
    assert all(0 <= float(row["mean"]) <= 100 for row in percents if row["mean"])
    assert len({row["sha256"] for row in rows if row["checkpoint"] == "mscn"}) == 1
    page = (folder / "report" / "report.html").read_text()
    assert "mscn" in page and "data:image/png" in page


def test_flow_on_the_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    make_digits(data, classification=(80, 40, 40), scenes=(6, 4, 4))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    rows = run(tmp_path / "runs", "digits_cls", "digits_coco.yaml")
    check(rows, tmp_path / "runs")
    assert {"segm/AP"} <= {row["metric"] for row in rows}


def test_flow_on_photographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_data: Callable[[str], Path]
) -> None:
    real_data("groceries_voc")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data("flowers5")))
    own = "DATASETS.TRAIN voc:groceries_voc:train DATASETS.TEST voc:groceries_voc:test"
    rows = run(tmp_path, "flowers5", "digits_voc.yaml", own)
    check(rows, tmp_path)
