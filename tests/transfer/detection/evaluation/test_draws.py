"""Metrics of reweighted images against evaluators on data with really repeated images."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation import coco, coco_matches
from transfer.detection.evaluation.coco import FAST, evaluate_coco
from transfer.detection.evaluation.coco_draws import ap_table
from transfer.detection.evaluation.coco_matches import HIT, IGNORED, MISS, match
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import score
from transfer.detection.evaluation.voc import evaluate_voc
from transfer.results.replicates import FILE_NAME, Replicates, read_replicates

CLASSES = {3: "ant", 5: "bee", 9: "cat", 11: "of one image", 12: "never there"}
SIDE = 200  # px
SIZES = [(15.0, 25.0), (27.0, 37.0), (32.0, 32.0), (50.0, 60.0), (91.0, 101.0), (96.0, 96.0)]
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def rle_of(box: np.ndarray) -> dict[str, Any]:
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    x, y, w, h = box.round().astype(int)
    mask[y : y + h + 1, x : x + w + 1] = 1
    rle = mask_utils.encode(mask)
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def random_coco(images: int, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, at and on the limits too, some crowds, some twice; detections near and
    far. Scores tie between images, not within one: which copy of an image comes first would decide.
    """
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for image_id in range(10, 10 + images):
        mine = []
        for _ in range(rng.integers(0, 6)):
            size = np.array(SIZES[rng.integers(len(SIZES))])
            box = np.concatenate([rng.uniform(0, SIDE - size - 2), size])
            label = int(rng.choice([3, 5, 9])) if image_id > 10 else 11
            for _ in range(rng.choice([1, 2], p=[0.8, 0.2])):
                crowd = int(rng.random() < 0.15)
                objects.append(thing(image_id, label, box) | {"iscrowd": crowd})
            for _ in range(rng.integers(0, 4)):
                noise = rng.choice([0.0, 0.1], p=[0.2, 0.8]) * size[0] * rng.normal(size=4)
                mine.append(thing(image_id, label, np.clip(box + noise, 1, SIDE - 1)))
        for _ in range(3):
            box = np.array([*rng.uniform(0, 100, 2), *rng.uniform(5, 90, 2)])
            mine.append(thing(image_id, int(rng.choice([3, 5, 9, 11])), box))
        for entry, value in zip(mine, rng.permutation(40)):
            entry["score"] = (int(value) + 1) / 50
        found += mine
    for number, entry in enumerate(objects, start=1):
        entry["id"] = number
    names = [{"id": key, "name": name} for key, name in CLASSES.items()]
    shape = {"width": SIDE, "height": SIDE}
    listing = [{"id": 10 + i, "file_name": f"{i}.jpg", **shape} for i in range(images)]
    return {"info": {}, "images": listing, "categories": names, "annotations": objects}, found


def thing(image_id: int, label: int, box: np.ndarray) -> dict[str, Any]:
    mask, sizes = rle_of(box), [float(v) for v in box]
    area = sizes[2] * sizes[3]
    common = {"image_id": image_id, "category_id": label, "bbox": sizes}
    return common | {"segmentation": mask, "area": area}


def repeated(
    truth: dict[str, Any], found: list[dict[str, Any]], times: dict[int, int]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The data set and its detections with image i `times[i]` times, each with a new id."""
    copies = [(i["id"], c) for i in truth["images"] for c in range(times[i["id"]])]
    new = {copy: number for number, copy in enumerate(copies, start=1)}

    def copied(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            entry | {"image_id": new[entry["image_id"], c]}
            for entry in entries
            for c in range(times[entry["image_id"]])
        ]

    objects = [o | {"id": n} for n, o in enumerate(copied(truth["annotations"]), start=1)]
    sizes = {"width": SIDE, "height": SIDE}
    images = [{"id": number, "file_name": str(copy), **sizes} for copy, number in new.items()]
    return {**truth, "images": images, "annotations": objects}, copied(found)


def evaluated(
    folder: Path,
    truth: dict[str, Any],
    found: list[dict[str, Any]],
    kind: str,
    most: int,
    library: tuple[type, type] = (COCO, COCOeval),
) -> Any:
    """A library's evaluation of at most `most` detections an image and class."""
    path = folder / "evaluated.json"
    path.write_text(json.dumps(truth))
    left = ("bbox", "area") if kind == "segm" else ("segmentation", "area")
    with contextlib.redirect_stdout(io.StringIO()):
        objects = library[0](str(path))
        results = [{k: v for k, v in entry.items() if k not in left} for entry in found]
        evaluation = library[1](objects, objects.loadRes(results), kind)
        evaluation.params.maxDets = [1, 2, most]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def slow_table(
    folder: Path, truth: dict[str, Any], found: list[dict[str, Any]], kind: str, most: int = 100
) -> np.ndarray:
    """pycocotools' AP by threshold, class and area range, (T, K, A), NaN without objects."""
    precision = evaluated(folder, truth, found, kind, most).eval["precision"][..., -1]
    return np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


def slow_metrics(table: np.ndarray) -> dict[str, float]:
    parts = (table[..., 0], table[0, :, 0], table[5, :, 0], *(table[..., a] for a in (1, 2, 3)))
    return {name: 100 * float(np.nanmean(part)) for name, part in zip(NAMES, parts)}


@pytest.mark.parametrize("evaluator", ["pycocotools", FAST])
def test_coco_is_pycocotools_on_repeated_images(tmp_path: Path, evaluator: str) -> None:
    if importlib.util.find_spec(evaluator) is None:
        pytest.skip(f"{evaluator} (the optional extra 'fast') is not installed")
    truth, found = random_coco(12, seed=0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(truth))
    ids = [image["id"] for image in truth["images"]]
    replicates = Replicates.draw(ids, draws=4)
    metrics, _ = evaluate_coco(
        path,
        [{k: v for k, v in entry.items() if k != "area"} for entry in found],
        kinds=("bbox", "segm"),
        classes=CLASSES,
        image_ids=ids,
        evaluator=evaluator,
        replicates=replicates,
    )
    assert metrics == pytest.approx(replicates.full, abs=1e-9)
    lacking = 0
    for kind in ("bbox", "segm"):
        whole = slow_table(tmp_path, truth, found, kind)
        for draw, weights in enumerate(replicates.weights[:, 1:].T):
            table = slow_table(tmp_path, *repeated(truth, found, dict(zip(ids, weights))), kind)
            lacking += int((np.isnan(table) & ~np.isnan(whole)).any())
            expected = slow_metrics(np.where(np.isnan(table), whole, table))
            for name, value in expected.items():
                drawn = replicates.values[f"{kind}/{name}"][draw]
                assert drawn == pytest.approx(value, abs=1e-9), (kind, name, draw)
    assert lacking > 0  # the class of one image is missing from some draw


@pytest.mark.parametrize("evaluator, cells", [("pycocotools", 1), (FAST, 2**20)])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_each_class_area_and_threshold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluator: str, cells: int, kind: str
) -> None:
    """Every AP, also with detections over the limit an image and in the smallest of parts."""
    if importlib.util.find_spec(evaluator) is None:
        pytest.skip(f"{evaluator} (the optional extra 'fast') is not installed")
    monkeypatch.setattr(coco_matches, "_CELLS", cells)
    truth, found = random_coco(10, seed=5)
    ids = [image["id"] for image in truth["images"]]
    replicates = Replicates.draw(ids, draws=3)
    evaluation = evaluated(tmp_path, truth, found, kind, 3, coco._classes_of(evaluator))
    table = ap_table(evaluation, replicates)
    for draw, weights in enumerate(replicates.weights.T):
        copies = repeated(truth, found, dict(zip(ids, weights)))
        expected = slow_table(tmp_path, *copies, kind, most=3).transpose(1, 2, 0)
        np.testing.assert_allclose(table[..., draw], expected, rtol=0, atol=1e-11)


def test_matches_by_hand() -> None:
    """Ties go to the last object; ignored objects are second choice; crowds are never used up."""
    ious = np.array([[0.8, 0.8, 0.9], [0.8, 0.7, 0.9], [0.6, 0.6, 0.9], [0.2, 0.2, 0.9]])
    # the same overlaps for two pairs: the third object of the second is not a crowd
    ious, pairs = np.concatenate([ious, ious]), np.repeat([0, 1], 4)
    ignored = np.array([[[False, False, True]]] * 2)
    crowd = np.array([[False, False, True], [False, False, False]])
    ((at_50, at_75),) = match(ious, pairs, ignored, crowd, np.array([0.5, 0.75]))
    # at 0.75 the second detection takes the first object, which the first has left
    assert at_50[:4].tolist() == at_75[:4].tolist() == [HIT, HIT, IGNORED, IGNORED]
    assert at_50[4:].tolist() == at_75[4:].tolist() == [HIT, HIT, IGNORED, MISS]


def random_voc(images: int, seed: int) -> tuple[DetectionSet, list[Predictions]]:
    rng = np.random.default_rng(seed)
    samples, boxes_of = [], []
    for number in range(images):
        low = rng.integers(0, 60, (rng.integers(0, 5), 2)).astype(float)
        boxes = np.concatenate([low, low + rng.integers(6, 40, low.shape)], axis=1)
        instances = tuple(
            Instance(tuple(box), int(rng.integers(2)), difficult=bool(rng.random() < 0.25))
            for box in boxes.tolist()
        )
        if number == 0:
            instances += (Instance((5.0, 5.0, 40.0, 40.0), 2),)
        samples.append(Sample(f"{number}.jpg", f"{number:03d}", 120, 120, instances))
        near = np.repeat([i.box for i in instances] or np.zeros((0, 4)), 3, axis=0)
        near = near.reshape(-1, 4) + rng.normal(0, 3, (len(near), 4))
        boxes_of.append(np.concatenate([near, rng.uniform(0, 100, (4, 4))]).astype(np.float32))
    scores = iter((rng.permutation(sum(map(len, boxes_of))) + 1) / 1000)
    predictions = [
        Predictions(
            sample.image_id,
            boxes,
            np.array([next(scores) for _ in boxes], np.float32),
            rng.integers(0, 3, len(boxes)),
        )
        for sample, boxes in zip(samples, boxes_of)
    ]
    return DetectionSet("voc:x:test", "voc", tuple(samples), tuple("abc"), (1, 2, 3)), predictions


@pytest.mark.parametrize("metric", [2007, 2012])
@pytest.mark.parametrize("exact", [False, True])
def test_voc_is_our_evaluator_on_repeated_images(metric: int, exact: bool) -> None:
    dataset, predictions = random_voc(10, seed=1)
    options = {"metric": metric, "exact": exact}
    replicates = Replicates.draw([sample.image_id for sample in dataset.samples], draws=10)
    metrics, whole = evaluate_voc(dataset, predictions, replicates=replicates, **options)
    assert metrics == pytest.approx(replicates.full, abs=1e-9)
    for draw, weights in enumerate(replicates.weights[:, 1:].T):
        copies = [(n, c) for n, times in enumerate(weights) for c in range(times)]
        ids = [f"{n:03d} {c}" for n, c in copies]
        samples = tuple(replace(dataset.samples[n], image_id=i) for (n, _), i in zip(copies, ids))
        found = [replace(predictions[n], image_id=i) for (n, _), i in zip(copies, ids)]
        _, per_class = evaluate_voc(replace(dataset, samples=samples), found, **options)
        there = {
            dataset.classes[i.category] for s in samples for i in s.instances if not i.difficult
        }
        for name, values in replicates.values.items():
            source = {c: (per_class if c in there else whole)[name][c] for c in dataset.classes}
            assert values[draw] == pytest.approx(np.mean(list(source.values())), abs=1e-9)


def test_score_writes_replicates(tmp_path: Path) -> None:
    dataset, predictions = random_voc(10, seed=2)
    metrics, _ = score(dataset, predictions, folder=tmp_path, with_masks=False, draws=200)
    stored = read_replicates(tmp_path / FILE_NAME)
    assert stored.full == pytest.approx(metrics, abs=1e-5) and stored.images == 10
    assert all(values.shape == (200,) for values in stored.values.values())
    # The spread is that of a mean over images, roughly: none of the draws is the full data
    assert 0 < stored.values["bbox/AP50"].std() < 30
    score(dataset, predictions, folder=tmp_path / "none", with_masks=False)
    assert not (tmp_path / "none" / FILE_NAME).exists()
