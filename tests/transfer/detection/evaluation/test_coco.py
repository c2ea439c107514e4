"""COCO metrics against pycocotools, which is called directly on our file of results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.predictions import Predictions, encode_masks
from transfer.detection.evaluation.score import RESULTS_FILE, score


def noisy(dataset: DetectionSet, seed: int) -> list[Predictions]:
    """The truth, shaken, with some classes wrong and masks that follow the boxes."""
    rng = np.random.default_rng(seed)
    predictions = []
    for sample in dataset.samples:
        boxes = np.array([i.box for i in sample.instances], dtype=np.float32)
        boxes = np.concatenate([boxes, boxes + rng.normal(0, 3, boxes.shape)]).astype(np.float32)
        classes = np.array([i.category for i in sample.instances] * 2)
        classes[rng.random(len(classes)) < 0.2] = 0
        masks = np.zeros((len(boxes), sample.height, sample.width), dtype=bool)
        for mask, box in zip(masks, boxes.round().clip(0, 128).astype(int)):
            mask[box[1] : box[3], box[0] : box[2]] = True
        scores = rng.uniform(0.1, 1.0, len(boxes)).astype(np.float32)
        order = np.argsort(-scores)
        predictions.append(
            Predictions(
                sample.image_id,
                boxes[order],
                scores[order],
                classes[order],
                encode_masks(masks[order]),
            )
        )
    return predictions


@pytest.fixture
def dataset(digits: Path) -> DetectionSet:
    return open_sets(["coco:digits_coco:test"])


def test_against_pycocotools(dataset: DetectionSet, tmp_path: Path) -> None:
    metrics, per_class = score(dataset, noisy(dataset, 0), folder=tmp_path, with_masks=True)
    truth = COCO(str(dataset.annotation_file))
    for kind in ("bbox", "segm"):
        results = json.loads((tmp_path / RESULTS_FILE).read_text())
        if kind == "segm":
            results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
        reference = COCOeval(truth, truth.loadRes(results), kind)
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
        for index, name in enumerate(("AP", "AP50", "AP75", "APs", "APm", "APl")):
            expected = reference.stats[index]
            found = metrics[f"{kind}/{name}"]
            assert found == 100 * expected or (expected == -1 and np.isnan(found))
        assert metrics[f"{kind}/AP"] > 1
        present = [value for value in per_class[f"{kind}/AP"].values() if not np.isnan(value)]
        assert np.mean(present) == pytest.approx(metrics[f"{kind}/AP"])
        assert set(per_class[f"{kind}/AP"]) == set(dataset.classes)


def test_results_are_unrounded_coco_dicts(dataset: DetectionSet, tmp_path: Path) -> None:
    predictions = noisy(dataset, 1)
    score(dataset, predictions, folder=tmp_path, with_masks=False)
    first = json.loads((tmp_path / RESULTS_FILE).read_text())[0]
    box = predictions[0].boxes[0]
    assert first["bbox"] == [*map(float, box[:2]), *map(float, box[2:] - box[:2])]
    assert first["score"] == float(predictions[0].scores[0])
    assert first["category_id"] == predictions[0].classes[0] + 1
    assert set(first["segmentation"]) == {"size", "counts"}


def test_no_detections_is_zero(dataset: DetectionSet, tmp_path: Path) -> None:
    nothing = [
        Predictions(s.image_id, np.zeros((0, 4), np.float32), np.zeros(0), np.zeros(0, int), [])
        for s in dataset.samples
    ]
    metrics, _ = score(dataset, nothing, folder=tmp_path, with_masks=True)
    assert metrics["bbox/AP"] == metrics["segm/AP"] == metrics["segm/AP50"] == 0.0


def test_a_limited_set_is_scored_on_its_images_alone(dataset: DetectionSet, tmp_path: Path) -> None:
    part = dataset.limited(1)
    truth = [
        Predictions(
            sample.image_id,
            np.array([i.box for i in sample.instances], np.float32),
            np.linspace(0.9, 0.8, len(sample.instances)),
            np.array([i.category for i in sample.instances]),
        )
        for sample in part.samples
    ]
    metrics, _ = score(part, truth, folder=tmp_path, with_masks=False)
    assert metrics["bbox/AP"] == pytest.approx(100.0)
