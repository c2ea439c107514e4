"""LVIS metrics against the package `lvis` run on the files themselves, and replicates by copies."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.common.errors import InputError
from tests.transfer.lvis_files import lvis_content, noisy, write_lvis
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation import lvis_library
from transfer.detection.evaluation.lvis import NAMES, evaluate_lvis
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import RESULTS_FILE, score
from transfer.results.replicates import Replicates, read_replicates

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("lvis") is None, reason="needs lvis: pip install --no-deps lvis"
)


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionSet:
    return open_sets([write_lvis(tmp_path, "val", lvis_content("val", 14))])


def directly(dataset: DetectionSet, results: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """The package's own results, from the files; with NumPy's old name, which 0.5.3 needs."""
    library = lvis_library.import_lvis()
    rows = copy.deepcopy(results)
    if kind == "segm":
        for row in rows:
            del row["bbox"]
    evaluation = library.LVISEval(str(dataset.annotation_file), rows, kind)
    evaluation.run()
    return evaluation.get_results()


def test_against_the_package(dataset: DetectionSet, tmp_path: Path) -> None:
    metrics, per_class = score(dataset, noisy(dataset, 0), folder=tmp_path, with_masks=True)
    results = json.loads((tmp_path / RESULTS_FILE).read_text())
    for kind in ("bbox", "segm"):
        expected = directly(dataset, results, kind)
        for name in NAMES:
            assert metrics[f"{kind}/{name}"] == 100 * expected[name], name
            assert expected[name] > 0.02, "else it would not be a test of it"
        assert set(per_class[f"{kind}/AP"]) == set(dataset.classes)
        assert np.isnan(per_class[f"{kind}/AP"]["class_6"])
        found = list(per_class[f"{kind}/AP"].values())
        assert np.nanmean(found) == pytest.approx(metrics[f"{kind}/AP"])
    # The area of a mask is half its box's: sizes differ.
    assert metrics["segm/APm"] != metrics["bbox/APm"]


def test_the_truth_is_100(dataset: DetectionSet, tmp_path: Path) -> None:
    truth = [
        Predictions(
            sample.image_id,
            np.array([i.box for i in sample.instances], np.float32),
            np.ones(len(sample.instances), np.float32),
            np.array([i.category for i in sample.instances]),
            encode_masks_of_polygons(sample.instances, sample.height),
        )
        for sample in dataset.samples
    ]
    metrics, _ = score(dataset, truth, folder=tmp_path, with_masks=True, draws=20)
    for kind in ("bbox", "segm"):
        for name in NAMES:
            assert metrics[f"{kind}/{name}"] == pytest.approx(100.0), name
    stored = read_replicates(tmp_path / "replicates.json")
    assert all(np.allclose(values, 100.0) for values in stored.values.values())


def encode_masks_of_polygons(instances: Any, side: int) -> list[dict[str, Any]]:
    from pycocotools import mask as mask_utils

    rles = [mask_utils.merge(mask_utils.frPyObjects(i.polygons, side, side)) for i in instances]
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in rles]


def test_replicates_are_the_scores_of_copied_images(dataset: DetectionSet, tmp_path: Path) -> None:
    """A draw against the package on a file in which each image is as often as the draw has it.

    All scores differ: of equal scores in one image, a draw has all copies of the first before those
    of the second, and a file of copies has the copies of the image one after the other.
    """
    predictions = noisy(dataset, 3, decimals=7)
    metrics, _ = score(dataset, predictions, folder=tmp_path, with_masks=False, draws=4)
    stored = read_replicates(tmp_path / "replicates.json")
    assert set(stored.values) == set(metrics)
    results = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert dataset.annotation_file is not None
    content = json.loads(dataset.annotation_file.read_text())
    drawn = Replicates.draw([s.image_id for s in dataset.samples], 4)
    for draw in range(4):
        copied, rows = copies(content, results, dict(zip(drawn.ids, drawn.weights[:, draw + 1])))
        path = tmp_path / f"draw_{draw}.json"
        path.write_text(json.dumps(copied))
        evaluation = lvis_library.import_lvis().LVISEval(str(path), rows, "bbox")
        evaluation.run()
        precision = evaluation.eval["precision"][:, :, :, 0].mean(axis=(0, 1))
        present = precision > -1
        full = per_class_of(dataset, results)
        expected = 100 * np.where(present, precision, full)[full > -1].mean()
        assert stored.values["bbox/AP"][draw] == pytest.approx(expected, abs=1e-5)


def copies(
    content: dict[str, Any], results: list[dict[str, Any]], weights: dict[Any, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    images, objects, rows = [], [], []
    for entry in content["images"]:
        for number in range(weights[entry["id"]]):
            image = entry["id"] * 100 + number
            images.append({**entry, "id": image})
            mine = (a for a in content["annotations"] if a["image_id"] == entry["id"])
            for record in mine:
                objects.append({**record, "id": len(objects) + 1, "image_id": image})
            found = (r for r in results if r["image_id"] == entry["id"])
            rows.extend({**row, "image_id": image} for row in found)
    return {**content, "images": images, "annotations": objects}, rows


def per_class_of(dataset: DetectionSet, results: list[dict[str, Any]]) -> np.ndarray:
    library = lvis_library.import_lvis()
    evaluation = library.LVISEval(str(dataset.annotation_file), copy.deepcopy(results), "bbox")
    evaluation.run()
    return evaluation.eval["precision"][:, :, :, 0].mean(axis=(0, 1))


def test_only_300_of_an_image_count(dataset: DetectionSet, tmp_path: Path) -> None:
    """Behind 300 better ones a detection is not scored, unless more are asked for."""
    sample = dataset.samples[0]
    box, category = sample.instances[0].box, sample.instances[0].category
    wrong = np.tile([0.0, 0.0, 2.0, 2.0], (300, 1))
    boxes = np.concatenate([wrong, [box]]).astype(np.float32)
    scores = np.linspace(0.9, 0.5, 301).astype(np.float32)
    found = [Predictions(sample.image_id, boxes, scores, np.full(301, category))]
    part = dataset.limited(1)
    few, _ = score(part, found, folder=tmp_path, with_masks=False)
    more, _ = score(part, found, folder=tmp_path, with_masks=False, max_detections=301)
    assert few["bbox/AP"] == 0 < more["bbox/AP"]


def test_a_limited_set_and_no_detections(dataset: DetectionSet, tmp_path: Path) -> None:
    part = dataset.limited(2)
    images = {sample.image_id for sample in part.samples}
    predictions = [p for p in noisy(dataset, 5, shake=0.0) if p.image_id in images]
    metrics, _ = score(part, predictions, folder=tmp_path, with_masks=False, draws=3)
    assert 0 < metrics["bbox/AP"] <= 100
    assert dataset.annotation_file is not None
    classes = dict(zip(dataset.category_ids, dataset.classes))
    metrics, _ = evaluate_lvis(dataset.annotation_file, [], kinds=("bbox", "segm"), classes=classes)
    assert set(metrics) == {f"{kind}/{name}" for kind in ("bbox", "segm") for name in NAMES}
    assert set(metrics.values()) == {0.0}


def test_a_group_without_classes_has_no_value(tmp_path: Path) -> None:
    content = lvis_content("val", 6)
    for entry in content["categories"]:
        entry["frequency"] = "f"
    dataset = open_sets([write_lvis(tmp_path, "val", content)])
    metrics, _ = score(dataset, noisy(dataset, 0), folder=tmp_path, with_masks=False, draws=2)
    assert np.isnan(metrics["bbox/APr"]) and metrics["bbox/APf"] == metrics["bbox/AP"]


def test_a_missing_package_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps lvis"):
        lvis_library.import_lvis()


def test_the_import_leaves_logging_and_opencv_alone() -> None:
    lvis_library.import_lvis()
    assert lvis_library.DRAWING not in sys.modules
    assert not hasattr(np, "float")
