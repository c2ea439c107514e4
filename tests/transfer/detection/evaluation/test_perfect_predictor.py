"""Predictions that equal the truth score 100, for every accepted kind of annotation file."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from tests.transfer import annotated
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet, Instance, Sample
from transfer.detection.evaluation.coco import FAST
from transfer.detection.evaluation.predictions import Predictions
from transfer.detection.evaluation.score import RESULTS_FILE, score
from transfer.results.replicates import FILE_NAME, read_replicates

Content = dict[str, Any]
EVALUATORS = [
    "pycocotools",
    pytest.param(
        FAST,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(FAST) is None, reason="faster-coco-eval is not installed"
        ),
    ),
]


def each(part: str, **changes: Any) -> Callable[[Content], None]:
    """A change of all entries of a list; a function gets the entry."""

    def change(content: Content) -> None:
        for entry in content[part]:
            entry.update({k: v(entry) if callable(v) else v for k, v in changes.items()})

    return change


def objects(**changes: Any) -> Callable[[Content], None]:
    return each("annotations", **changes)


def without(*keys: str) -> Callable[[Content], None]:
    return lambda content: [a.pop(key) for a in content["annotations"] for key in keys]


def renamed(image: Callable[[int], Any], category: Callable[[int], Any]) -> Callable:
    """Other ids of images and categories, used alike."""

    def change(content: Content) -> None:
        each("images", id=lambda e: image(e["id"]))(content)
        each("categories", id=lambda e: category(e["id"]))(content)
        objects(
            image_id=lambda e: image(e["image_id"]),
            category_id=lambda e: category(e["category_id"]),
        )(content)

    return change


def run_lengths(entry: Content) -> Content:
    rle = mask_utils.merge(mask_utils.frPyObjects(entry["segmentation"], 64, 64))
    return {"size": [64, 64], "counts": rle["counts"].decode()}


def listed(entry: Content) -> Content:
    """The same as a list of counts."""
    flat = mask_utils.decode(mask_utils.frPyObjects(entry["segmentation"], 64, 64))[..., 0]
    steps = np.flatnonzero(np.diff(flat.T.reshape(-1).astype(int))) + 1
    return {"size": [64, 64], "counts": np.diff([0, *steps, 64 * 64]).tolist()}


def with_empty_runs(entry: Content) -> Content:
    """The same, with runs of 0 pixels: at the begin, within a run and at the end."""
    first, second, *others = listed(entry)["counts"]
    return {"size": [64, 64], "counts": [0, 0, first, 5, 0, second - 5, *others, 0, 0]}


def crowds(content: Content) -> None:
    """A crowd region over each image, in addition to the objects."""
    whole = [0, 0, 64, 64]
    for number in (1, 2, 3):
        crowd = {
            "id": 50 + number,
            "image_id": number,
            "category_id": 1,
            "bbox": whole,
            "area": 4096,
        }
        crowd["segmentation"] = {"size": [64, 64], "counts": [0, 4096]}
        content["annotations"].append({**crowd, "iscrowd": 1})


def rooted(content: Content) -> None:
    """Roboflow's root, with the name of a class."""
    content["categories"] = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
        {"id": 2, "name": "dog", "supercategory": "cat"},
    ]


def many_areas(content: Content) -> None:
    """No area, and objects without a mask too: these count by their box."""
    without("area")(content)
    content["annotations"][0].pop("segmentation")


BOXES_ALONE: dict[str, Callable[[Content], None]] = {
    "no area": many_areas,
    "no polygon": objects(segmentation=[[]]),
    "corners as a polygon": objects(segmentation=lambda a: [a["bbox"]]),
    "one without a polygon": lambda c: c["annotations"][3].update(segmentation=[[], [1, 2, 3]]),
}


KINDS: dict[str, Callable[[Content], None]] = {
    "base": lambda c: None,
    "id 0": objects(id=lambda a: a["id"] - 1),
    "negative ids": objects(id=lambda a: a["id"] - 7),
    "ids down to 0": objects(id=lambda a: 6 - a["id"]),
    "huge ids": objects(id=lambda a: a["id"] * 10**30),
    "text ids": objects(id=lambda a: f"object {a['id']}"),
    "float ids": objects(id=lambda a: float(a["id"] - 1)),
    "image and category 0": renamed(lambda i: i - 1, lambda c: c - 1),
    "negative images and categories": renamed(lambda i: -i, lambda c: -c),
    "huge images and categories": renamed(lambda i: i + 2**70, lambda c: c + 2**70),
    "text images and categories": renamed(lambda i: f"im {i}", lambda c: f"c{c}"),
    "digits as text": renamed(str, str),
    "float images and categories": renamed(float, float),
    "text references": objects(
        image_id=lambda a: str(a["image_id"]), category_id=lambda a: str(a["category_id"])
    ),
    "number references": lambda c: (
        each("images", id=lambda e: str(e["id"]))(c),
        each("categories", id=lambda e: str(e["id"]))(c),
    ),
    "null crowd": objects(iscrowd=None),
    "no crowd": without("iscrowd"),
    "text crowd": objects(iscrowd="0"),
    "boolean crowd": objects(iscrowd=False),
    "null area": objects(area=None),
    "no area": without("area"),
    "text numbers": objects(
        bbox=lambda a: list(map(str, a["bbox"])), area=lambda a: str(a["area"])
    ),
    "text sizes": each("images", width="64", height="64"),
    "text polygons": objects(segmentation=lambda a: [list(map(str, a["segmentation"][0]))]),
    "area 0": objects(area=0),
    "ignore 0": objects(ignore=0),
    "a short polygon more": objects(segmentation=lambda a: [*a["segmentation"], [1, 1, 2, 2]]),
    "a short polygon first": objects(segmentation=lambda a: [[1, 1, 2, 2], *a["segmentation"]]),
    "an empty polygon first": objects(segmentation=lambda a: [[], *a["segmentation"]]),
    "half a point more": objects(segmentation=lambda a: [[*a["segmentation"][0], 3]]),
    "run lengths of 0 pixels": objects(segmentation=with_empty_runs),
    "an image file twice": lambda c: c["images"].append({**c["images"][0], "id": 9}),
    "crowds": crowds,
    "compressed run lengths": objects(segmentation=run_lengths),
    "run lengths": objects(segmentation=listed),
    "partly outside": objects(bbox=lambda a: [a["bbox"][0] - 12, a["bbox"][1] + 14, 40, 40]),
    "root": rooted,
    "an image without objects": lambda c: c["annotations"].__delitem__(slice(2, 4)),
    "an unused class": lambda c: c["categories"].append({"id": 9, "name": "eel"}),
    "reversed": lambda c: [c[part].reverse() for part in c],
}  # fmt: skip


def perfect(dataset: DetectionSet, masks: bool) -> list[Predictions]:
    """The objects that count, as detections."""
    return [_found(sample, masks) for sample in dataset.samples]


def _found(sample: Sample, masks: bool) -> Predictions:
    kept = [i for i in sample.instances if not (i.crowd or i.difficult)]
    boxes = np.array([i.box for i in kept], np.float32).reshape(-1, 4)
    labels = np.array([i.category for i in kept], int)
    rles = [_rle(i, sample) for i in kept] if masks else None
    return Predictions(sample.image_id, boxes, np.full(len(kept), 0.9), labels, rles)


def _rle(instance: Instance, sample: Sample) -> Content:
    rle = instance.rle or mask_utils.merge(
        mask_utils.frPyObjects(instance.polygons, sample.height, sample.width)
    )
    counts = rle["counts"]
    return {**rle, "counts": counts if isinstance(counts, str) else counts.decode()}


def check(dataset: DetectionSet, folder: Path, masks: bool, **options: Any) -> None:
    metrics, per_class = score(
        dataset, perfect(dataset, masks), folder=folder, with_masks=masks, draws=5, **options
    )
    stored = read_replicates(folder / FILE_NAME)
    kinds = ("bbox", "segm") if masks else ("bbox",)
    for name in [f"{kind}/{part}" for kind in kinds for part in ("AP", "AP50", "AP75")]:
        assert metrics[name] == pytest.approx(100.0), name
        assert stored.full[name] == pytest.approx(100.0), name
        assert stored.values[name] == pytest.approx(100.0), name
    for kind in kinds:
        scored = {name: v for name, v in per_class[f"{kind}/AP"].items() if not np.isnan(v)}
        assert scored == pytest.approx({"cat": 100.0, "dog": 100.0})


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_coco(tmp_path: Path, kind: str, evaluator: str) -> None:
    content = annotated.coco_content()
    KINDS[kind](content)
    annotated.write_coco(tmp_path / "c", "val", content)
    dataset = open_sets([f"coco:{tmp_path}/c:val"], scored=("bbox", "segm"))
    check(dataset, tmp_path / "out", True, coco_evaluator=evaluator)
    results = json.loads((tmp_path / "out" / RESULTS_FILE).read_text())
    assert {r["image_id"] for r in results} <= {e["id"] for e in content["images"]}
    assert {r["category_id"] for r in results} <= {e["id"] for e in content["categories"]}


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("kind", BOXES_ALONE)
def test_coco_by_boxes_alone(tmp_path: Path, kind: str, evaluator: str) -> None:
    """Also objects that Detectron2 skips in training are there to be found."""
    content = annotated.coco_content()
    BOXES_ALONE[kind](content)
    annotated.write_coco(tmp_path / "c", "val", content)
    dataset = open_sets([f"coco:{tmp_path}/c:val"], scored=("bbox",))
    check(dataset, tmp_path / "out", False, coco_evaluator=evaluator)


@pytest.mark.parametrize("metric", [2007, 2012])
@pytest.mark.parametrize(
    "extra",
    ["", "<object><name>cat</name><difficult>1</difficult><bndbox><xmin>40</xmin><ymin>40</ymin>"
         "<xmax>60</xmax><ymax>60</ymax></bndbox></object>"],
)  # fmt: skip
def test_voc(tmp_path: Path, extra: str, metric: int) -> None:
    annotated.write_voc(tmp_path / "v", "test", extra)
    dataset = open_sets([f"voc:{tmp_path}/v:test"])
    check(dataset, tmp_path / "out", False, voc_metric=metric)


def _edited(folder: Path, change: Callable[[str], str], coding: str = "utf-8") -> None:
    for path in (folder / "Annotations").iterdir():
        path.write_bytes(change(path.read_text()).encode(coding))


def _from_zero(text: str) -> str:
    """Corners counted from 0, and an object at the edge, which shows that they are."""
    text = re.sub(r"<([xy]min)>([\d.]+)<", lambda m: f"<{m[1]}>{float(m[2]) - 1}<", text)
    edge = "".join(
        f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), "0033")
    )
    more = f"<object><name>cat</name><difficult>1</difficult><bndbox>{edge}</bndbox></object>"
    return text.replace("</annotation>", f"{more}</annotation>")


def _moved(folder: Path) -> None:
    """All files of the images in a folder below, which the list names."""
    for part in ("JPEGImages", "Annotations"):
        (folder / part / "sub").mkdir()
        for path in [p for p in (folder / part).iterdir() if p.is_file()]:
            path.rename(folder / part / "sub" / path.name)
    _listed(folder, "sub/{}")


def _listed(folder: Path, line: str) -> None:
    (folder / "ImageSets/Main/test.txt").write_text("\n".join(map(line.format, range(3))))


def _upper(folder: Path) -> None:
    for path in list((folder / "JPEGImages").iterdir()):
        path.rename(path.with_suffix(".JPG"))


VOC_KINDS: dict[str, Callable[[Path], None]] = {
    "base": lambda folder: None,
    "counted from 0": lambda folder: _edited(folder, _from_zero),
    "UTF-16": lambda folder: _edited(folder, lambda text: text, "utf-16"),
    "folder below": _moved,
    "upper suffix": _upper,
    "suffixes and a mark in the list": lambda folder: _listed(folder, "\ufeff{}.jpg"),
    "quotes in the list": lambda folder: _listed(folder, '"{}"'),
}


@pytest.mark.parametrize("kind", VOC_KINDS)
def test_voc_boxes_as_they_were_drawn(tmp_path: Path, kind: str) -> None:
    """The predictions come from the boxes that were drawn, not from the boxes that were read."""
    annotated.write_voc(tmp_path / "v", "test")
    VOC_KINDS[kind](tmp_path / "v")
    dataset = open_sets([f"voc:{tmp_path}/v:test"])
    drawn = np.array(annotated.BOXES, np.float32)  # (images, objects, x y width height)
    drawn[..., 2:] += drawn[..., :2]
    found = [
        Predictions(sample.image_id, boxes, np.full(2, 0.9), np.array([0, 1]))
        for sample, boxes in zip(dataset.samples, drawn)
    ]
    metrics, _ = score(dataset, found, folder=tmp_path / "out", with_masks=False, draws=5)
    for name in ("bbox/AP", "bbox/AP50", "bbox/AP75"):
        assert metrics[name] == pytest.approx(100.0), name


def dense(tmp_path: Path, count: int) -> DetectionSet:
    """One image with `count` objects of one class, side by side."""
    boxes = [[3.0 * (i % 20), 6.0 * (i // 20), 3.0, 6.0] for i in range(count)]
    content = annotated.coco_content()
    entry = content["annotations"][0]
    content["annotations"] = [
        {**entry, "id": i, "bbox": box, "area": 18.0, "segmentation": [annotated.polygon(box)]}
        for i, box in enumerate(boxes)
    ]
    annotated.write_coco(tmp_path / "c", "val", content)
    return open_sets([f"coco:{tmp_path}/c:val"])


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_more_objects_than_coco_takes(tmp_path: Path, evaluator: str) -> None:
    """100 of an image, as COCO, unless the detector gives more: then as many as it gives."""
    dataset = dense(tmp_path, 150)
    options = {"folder": tmp_path / "out", "with_masks": True, "coco_evaluator": evaluator}
    found = perfect(dataset, masks=True)
    for limit, expected in ((30, 67 / 101), (120, 81 / 101), (150, 1.0)):
        metrics, _ = score(dataset, found, max_detections=limit, draws=3, **options)
        stored = read_replicates(tmp_path / "out" / FILE_NAME)
        curves = json.loads((tmp_path / "out" / "pr_curves.json").read_text())["mean"]
        for name in ("bbox/AP", "bbox/AP50", "segm/AP"):
            assert metrics[name] == pytest.approx(100 * expected)
            assert stored.full[name] == pytest.approx(100 * expected, abs=1e-5)
            assert np.mean(curves[name]) == pytest.approx(expected, abs=1e-3)
