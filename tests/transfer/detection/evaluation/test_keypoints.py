"""Keypoint AP: against pycocotools itself, on repeated images, and for a perfect predictor."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval, Params

import transfer
from pretrain.common.errors import InputError
from tests.transfer.detection.evaluation.test_draws import SIDE, repeated
from transfer.datasets.keypoints import COCO_SIGMAS
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.coco import FAST, choose_evaluator, evaluate_coco
from transfer.detection.evaluation.predictions import (
    Predictions,
    from_coco_results,
    to_coco_results,
)
from transfer.detection.evaluation.score import RESULTS_FILE, score
from transfer.results.replicates import FILE_NAME, Replicates, read_replicates

SIGMAS = (0.05, 0.1, 0.07, 0.3)
NAMES = ("AP", "AP50", "AP75", "APm", "APl")
CLASSES = {1: "person"}


@pytest.fixture(params=["pycocotools", FAST])
def evaluator(request: pytest.FixtureRequest) -> str:
    if choose_evaluator("auto") != FAST and request.param == FAST:
        pytest.skip("faster-coco-eval (the optional extra 'fast') is not installed")
    return request.param


def random_people(images: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, some a crowd, some without a labelled keypoint; detections near them.
    Scores tie between images, not within one."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image_id in range(1, 1 + images):
        mine = []
        for _ in range(rng.integers(0, 5)):
            size = rng.choice([25.0, 60.0, 150.0, 180.0]) * rng.uniform(0.8, 1.0, 2)
            box = np.concatenate([rng.uniform(0, SIDE - size), size])
            points = box[:2] + size * rng.uniform(-0.1, 1.1, (4, 2))
            visible = rng.integers(0, 3, 4) * (rng.random() < 0.8)
            entry = {"image_id": image_id, "category_id": 1, "bbox": box.tolist()}
            objects.append(
                {
                    **entry,
                    "area": float(size.prod() * 0.6),
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": flat(points.round(), visible),
                    "num_keypoints": int((visible > 0).sum()),
                }
            )
            for _ in range(rng.integers(0, 4)):
                moved = points + rng.normal(0, rng.choice([0.5, 5.0, 20.0]), points.shape)
                mine.append({**entry, "keypoints": flat(moved, rng.random(4))})
        for one, value in zip(mine, rng.permutation(40)):
            one["score"] = (int(value) + 1) / 50
        found += mine
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    shape = {"width": SIDE, "height": SIDE}
    listing = [{"id": 1 + i, "file_name": f"{i}.jpg", **shape} for i in range(images)]
    names = [{"id": 1, "name": "person", "keypoints": ["nose", "left", "right", "tail"]}]
    return {"info": {}, "images": listing, "categories": names, "annotations": objects}, found


def flat(points: np.ndarray, last: np.ndarray) -> list[float]:
    return np.concatenate([points, last[:, None]], axis=1).flatten().tolist()


def plain_pycocotools(
    folder: Path, truth: dict[str, Any], found: list[dict[str, Any]]
) -> dict[str, float]:
    path = folder / "plain.json"
    path.write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(path))
        evaluation = COCOeval(objects, objects.loadRes(json.loads(json.dumps(found))), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(SIGMAS)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, 100 * evaluation.stats[:5]))


def test_it_is_pycocotools_also_on_repeated_images(tmp_path: Path, evaluator: str) -> None:
    truth, found = random_people(30, seed=0)
    path = tmp_path / "people.json"
    path.write_text(json.dumps(truth))
    ids = [image["id"] for image in truth["images"]]
    replicates = Replicates.draw(ids, draws=3)
    metrics, per_class = evaluate_coco(
        path,
        found,
        kinds=("bbox", "keypoints"),
        classes=CLASSES,
        image_ids=ids,
        evaluator=evaluator,
        oks_sigmas=SIGMAS,
        replicates=replicates,
    )
    expected = plain_pycocotools(tmp_path, truth, found)
    assert {name: metrics[f"keypoints/{name}"] for name in NAMES} == pytest.approx(
        expected, abs=1e-9
    )
    assert 5 < expected["AP"] < expected["AP50"] < 95 and "keypoints/APs" not in metrics
    assert per_class["keypoints/AP"] == {"person": pytest.approx(expected["AP"])}
    assert metrics == pytest.approx(replicates.full, abs=1e-9)
    for draw, weights in enumerate(replicates.weights[:, 1:].T):
        copies = repeated(truth, found, dict(zip(ids, weights)))
        for name, value in plain_pycocotools(tmp_path, *copies).items():
            drawn = replicates.values[f"keypoints/{name}"][draw]
            assert drawn == pytest.approx(value, abs=1e-9), (name, draw)


def test_sigmas_are_cocos() -> None:
    assert COCO_SIGMAS == pytest.approx(Params("keypoints").kpt_oks_sigmas)


def people(folder: Path) -> DetectionSet:
    """A data set on disk whose objects are all in the image; without images."""
    truth, _ = random_people(12, seed=4)
    (folder / "images").mkdir(parents=True)
    for image in truth["images"]:
        (folder / "images" / image["file_name"]).touch()
    path = folder / "people.json"
    path.write_text(json.dumps(truth))
    return open_sets([f"coco:{path}:{folder / 'images'}"], scored=("bbox",), keypoints=4)


def test_truth_as_prediction_scores_100(tmp_path: Path, evaluator: str) -> None:
    dataset = people(tmp_path / "data")
    predictions = []
    for sample in dataset.samples:
        kept = [i for i in sample.instances if not i.crowd]
        keypoints = np.array([i.keypoints for i in kept], np.float32).reshape(-1, 4, 3)
        # Objects without a labelled keypoint come last: they would take what others are near to.
        labelled = (keypoints[..., 2] > 0).any(axis=1)
        predictions.append(
            Predictions(
                sample.image_id,
                np.array([i.box for i in kept], np.float32).reshape(-1, 4),
                np.where(labelled, 1.0, 0.5).astype(np.float32),
                np.zeros(len(kept), int),
                keypoints=keypoints,
            )
        )
    options = {"with_masks": False, "oks_sigmas": SIGMAS, "coco_evaluator": evaluator}
    metrics, _ = score(dataset, predictions, folder=tmp_path, draws=5, **options)
    for name in ("bbox/AP", *(f"keypoints/{name}" for name in NAMES)):
        assert metrics[name] == pytest.approx(100.0), name
    assert set(metrics) == set(read_replicates(tmp_path / FILE_NAME).full)
    stored = json.loads((tmp_path / RESULTS_FILE).read_text())
    assert stored == to_coco_results(predictions, dataset.category_ids)
    again = from_coco_results(stored, dataset.category_ids)
    assert again[0].keypoints is not None and predictions[0].keypoints is not None
    np.testing.assert_array_equal(again[0].keypoints, predictions[0].keypoints)
    # Half a pixel less than the corner's count: COCO's own whole numbers.
    annotated = json.loads((tmp_path / "data/people.json").read_text())["annotations"]
    first = next(a for a in annotated if not a["iscrowd"])
    assert stored[0]["keypoints"] == first["keypoints"]


def test_evaluate_scores_keypoints_that_every_prediction_has(tmp_path: Path) -> None:
    dataset = people(tmp_path / "data")
    _, rows = random_people(12, seed=4)
    scores = transfer.evaluate(rows, dataset, oks_sigmas=SIGMAS)
    assert 0 < scores.metrics["keypoints/AP"] < 100
    plain = [{k: v for k, v in row.items() if k != "keypoints"} for row in rows]
    assert "keypoints/AP" not in transfer.evaluate(plain, dataset).metrics
    with pytest.raises(InputError, match="have 4 keypoints, and oks_sigmas 17 numbers"):
        transfer.evaluate(rows, dataset)
    for wrong in (rows[1]["keypoints"][:-3], rows[1]["keypoints"][:-1], [], "x"):
        damaged = [rows[0], {**rows[1], "keypoints": wrong}]
        with pytest.raises(InputError, match="result 1 has keypoints that are not x, y, score"):
            transfer.evaluate(damaged, dataset, oks_sigmas=SIGMAS)


def test_nothing_found_is_0(tmp_path: Path, evaluator: str) -> None:
    dataset = people(tmp_path / "data")
    empty = np.zeros((0, 4), np.float32)
    none = [
        Predictions(sample.image_id, empty, empty[:, 0], np.zeros(0, int))
        for sample in dataset.samples
    ]
    options = {"with_masks": False, "oks_sigmas": SIGMAS, "coco_evaluator": evaluator}
    assert score(dataset, none, folder=tmp_path, **options).metrics["keypoints/AP"] == 0


@pytest.mark.detectron2
def test_it_is_detectron2s(tmp_path: Path) -> None:
    pytest.importorskip("detectron2.evaluation", reason="detectron2 is not installed")
    import torch
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances

    from transfer.detection.detectron2_plugin import register

    dataset = people(tmp_path / "data")
    rng = np.random.default_rng(0)
    predictions = []
    for sample in dataset.samples:
        count = len(sample.instances)
        truth = [i.keypoints or (0.0,) * 12 for i in sample.instances]
        found = np.array(truth, np.float32).reshape(-1, 4, 3)
        found[..., :2] += rng.normal(0, 4, found[..., :2].shape)
        boxes = np.array([i.box for i in sample.instances], np.float32).reshape(-1, 4)
        scores = rng.random(count).astype(np.float32)
        classes = np.zeros(count, int)
        predictions.append(Predictions(sample.image_id, boxes, scores, classes, keypoints=found))
    name = f"people_{tmp_path.name}"
    register(name, dataset)
    tasks = ("bbox", "keypoints")
    evaluator = COCOEvaluator(name, tasks, False, kpt_oks_sigmas=SIGMAS, use_fast_impl=False)
    evaluator.reset()
    for one in predictions:
        instances = Instances((SIDE, SIDE))
        instances.pred_boxes = Boxes(torch.from_numpy(one.boxes))
        instances.scores = torch.from_numpy(one.scores)
        instances.pred_classes = torch.from_numpy(one.classes)
        instances.pred_keypoints = torch.from_numpy(one.keypoints.copy())
        evaluator.process([{"image_id": one.image_id}], [{"instances": instances}])
    theirs = evaluator.evaluate()["keypoints"]
    ours, _ = score(dataset, predictions, folder=tmp_path, with_masks=False, oks_sigmas=SIGMAS)
    for metric in NAMES:
        assert ours[f"keypoints/{metric}"] == pytest.approx(theirs[metric], abs=1e-9)
    assert 1 < ours["keypoints/AP"] < 99
