"""The evaluators' object with our ids gives the numbers of pycocotools on the file itself."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pretrain.common.errors import InputError
from tests.transfer.detection.evaluation.test_coco_evaluators import CLASSES, random_case
from transfer.detection.evaluation.coco import FAST, NAMES, evaluate_coco
from transfer.results.replicates import Replicates

EVALUATORS = ["pycocotools"] + [FAST] * (importlib.util.find_spec(FAST) is not None)
MINE = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def on_the_file(
    path: Path, results: list[dict[str, Any]], kind: str, most: int = 100
) -> tuple[np.ndarray, dict[str, float]]:
    """pycocotools' six numbers and AP per class, from its own reader."""
    truth = COCO(str(path))
    left = "bbox" if kind == "segm" else ""
    found = truth.loadRes([{k: v for k, v in r.items() if k != left} for r in results])
    reference = COCOeval(truth, found, kind)
    reference.params.maxDets = [1, 10, most]
    reference.evaluate()
    reference.accumulate()
    precision = reference.eval["precision"][..., -1]
    parts = (precision[..., 0], precision[0, ..., 0], precision[5, ..., 0])
    parts += tuple(precision[..., area] for area in (1, 2, 3))
    per_class = [mean(precision[:, :, k, 0]) for k in range(precision.shape[2])]
    names = [CLASSES[key] for key in reference.params.catIds]
    return np.array([mean(part) for part in parts]), dict(zip(names, per_class))


def mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return 100 * float(np.mean(valid)) if valid.size else float("nan")


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("seed", range(4))
def test_random_sets(tmp_path: Path, seed: int, evaluator: str) -> None:
    """With crowds, objects without area, polygons, run lengths, fractions and equal scores."""
    path, results = random_case(tmp_path, 20 + seed, images=14)
    ids = [image["id"] for image in json.loads(path.read_text())["images"]]
    most = (100, 250)[seed % 2]
    replicates = Replicates.draw(ids, 4)
    metrics, per_class = evaluate_coco(
        path,
        results,
        kinds=("bbox", "segm"),
        classes=CLASSES,
        evaluator=evaluator,
        max_detections=most,
        replicates=replicates,
    )
    for kind in ("bbox", "segm"):
        expected, classes = on_the_file(path, results, kind, most)
        ours = np.array([metrics[f"{kind}/{name}"] for name in NAMES])
        if evaluator == "pycocotools":
            np.testing.assert_array_equal(ours, expected)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-9)
        assert per_class[f"{kind}/AP"] == pytest.approx(classes, abs=1e-9, nan_ok=True)
        drawn = [replicates.full[f"{kind}/{name}"] for name in NAMES]
        np.testing.assert_allclose(drawn, expected, rtol=0, atol=1e-9)
    assert tuple(NAMES) == MINE and 5 < metrics["bbox/AP"] < 95


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_other_ids_and_types_change_no_number(tmp_path: Path, evaluator: str) -> None:
    """Ids as text in the same order, references as numbers, numbers as text."""
    path, results = random_case(tmp_path, 31, images=12)
    content = json.loads(path.read_text())
    options = {"kinds": ("bbox", "segm"), "evaluator": evaluator}
    plain = evaluate_coco(path, results, classes=CLASSES, **options)
    for entry in content["images"]:
        entry["id"] = f"{entry['id']:05d}x"
    for entry in content["annotations"]:
        entry["id"] = -entry["id"]
        entry["image_id"] = f"{entry['image_id']:05d}x"
        entry["bbox"] = [repr(value) for value in entry["bbox"]]
        entry["area"], entry["iscrowd"] = repr(entry["area"]), str(entry["iscrowd"])
        entry["category_id"] = str(entry["category_id"])
    path.write_text(json.dumps(content))
    changed = [{**r, "image_id": f"{r['image_id']:05d}x"} for r in results]
    again = evaluate_coco(path, changed, classes=CLASSES, **options)
    assert repr(again) == repr(plain)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_missing_areas_are_those_of_masks(tmp_path: Path, evaluator: str) -> None:
    """As if the file held the areas of its masks, and those of the boxes if there is no mask.

    Areas below 0, as formulas of polygons give them, and above pycocotools' largest count as
    missing: it would ignore such objects, and a perfect detector would have no score.
    """
    from pycocotools import mask as mask_utils

    path, results = random_case(tmp_path, 32, images=12)
    content = json.loads(path.read_text())
    objects = content["annotations"]
    for entry in objects[::3]:
        del entry["segmentation"]
    options = {"kinds": ("bbox",), "classes": CLASSES, "evaluator": evaluator}
    for entry in objects:
        width, height = entry["bbox"][2:]
        entry["area"] = width * height
        mask = entry.get("segmentation")
        if isinstance(mask, list):
            mask = mask_utils.merge(mask_utils.frPyObjects(mask, 160, 160))
        if mask:
            entry["area"] = float(mask_utils.area(mask)) or width * height
    path.write_text(json.dumps(content))
    expected = evaluate_coco(path, results, **options)
    for place, entry in enumerate(objects):
        entry["area"] = (None, -entry["area"] - 1, 2e10, "gone")[place % 4]
        if place % 4 == 3:
            del entry["area"]
    path.write_text(json.dumps(content))
    assert repr(evaluate_coco(path, results, **options)) == repr(expected)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_evaluators_are_quiet(
    tmp_path: Path, evaluator: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, results = random_case(tmp_path, 33, images=3)
    with caplog.at_level(logging.INFO):
        evaluate_coco(path, results, kinds=("bbox",), classes=CLASSES, evaluator=evaluator)
    assert not caplog.records


def test_a_detection_of_an_unlisted_image(tmp_path: Path) -> None:
    path, results = random_case(tmp_path, 33, images=3)
    found = [{**results[0], "image_id": 4}]
    with pytest.raises(InputError, match="image 4 is scored, but the test set does not list it"):
        evaluate_coco(path, found, kinds=("bbox",), classes=CLASSES)


def test_detections_of_a_class_without_a_category_count_nowhere(tmp_path: Path) -> None:
    path, results = random_case(tmp_path, 34, images=12)
    options = {"kinds": ("bbox",), "classes": CLASSES}
    more = [{**results[0], "category_id": -1}, {**results[0], "category_id": 4}]
    assert repr(evaluate_coco(path, results + more, **options)) == repr(
        evaluate_coco(path, results, **options)
    )
