"""Precision-recall curves against the metrics that they belong to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.pr_curves import RECALL, PrecisionRecall, interpolate
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import score


def _predict(dataset: DetectionSet) -> list[Predictions]:
    """Each object found with noise, and as many false boxes."""
    generator = np.random.default_rng(0)
    predictions = []
    for sample in dataset.samples:
        true = np.array([i.box for i in sample.instances], np.float32).reshape(-1, 4)
        boxes = np.concatenate([true + generator.normal(0, 2, true.shape), true * 0.5])
        classes = np.array([i.category for i in sample.instances] * 2, dtype=int)
        scores = generator.uniform(0, 1, len(boxes))
        predictions.append(Predictions(sample.image_id, boxes.astype(np.float32), scores, classes))
    return predictions


@pytest.mark.parametrize("layout", ["voc", "coco"])
def test_mean_height_is_ap(digits: Path, tmp_path: Path, layout: str) -> None:
    dataset = open_sets([f"{layout}:digits_{layout}:train"])
    metrics, per_class = score(dataset, _predict(dataset), folder=tmp_path, with_masks=False)
    content = json.loads((tmp_path / "pr_curves.json").read_text())
    step = 10 if layout == "voc" else 1  # eleven points, or all
    assert content["recall"] == pytest.approx(RECALL.tolist())
    assert set(content["mean"]) == {"bbox/AP", "bbox/AP50", "bbox/AP75"}
    for name, curve in content["mean"].items():
        assert 100 * np.mean(curve[::step]) == pytest.approx(metrics[name], abs=0.01)
        assert 0 < metrics[name] < 100 and np.all(np.diff(curve) <= 0)
    curves = content["per_class"]["bbox/AP50"]
    assert all(len(curve) == len(content["class_recall"]) == 21 for curve in curves.values())
    # A class without objects: VOC's AP is 0, COCO's is not defined
    assert set(curves) == {n for n, value in per_class["bbox/AP"].items() if not np.isnan(value)}


def test_interpolation_against_a_loop() -> None:
    generator = np.random.default_rng(1)
    hits = generator.integers(0, 2, 60).cumsum()
    recall, precision = hits / (hits[-1] * 1.25), hits / np.arange(1, 61)
    expected = [
        max((p for r, p in zip(recall, precision) if r >= level - 1e-12), default=0.0)
        for level in RECALL
    ]
    np.testing.assert_array_equal(interpolate(recall, precision), expected)
    assert expected[-1] == 0.0  # only 80 % are found


def test_no_detections_and_no_objects(tmp_path: Path) -> None:
    assert not interpolate(np.zeros(0), np.zeros(0)).any()
    assert not interpolate(np.full(3, np.nan), np.ones(3)).any()
    curves = PrecisionRecall()
    curves.add("bbox", np.full((10, 101, 2), -1.0), ["cat", "dog"])
    assert json.loads(curves.write(tmp_path).read_text())["mean"] == {}
