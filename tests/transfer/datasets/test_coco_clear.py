"""Annotations in columns against the same records read one by one: samples, warnings, errors."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.common import findings
from pretrain.common.errors import InputError
from transfer.datasets import coco_annotations
from transfer.datasets.checks_before_training import check_masks, check_trainable, count
from transfer.datasets.coco import read_classes, read_coco, read_json
from transfer.datasets.coco_annotations import AnnotationColumns
from transfer.datasets.few_labels import Part, few_labels
from transfer.datasets.registry import open_sets
from transfer.datasets.sample_columns import SampleColumns
from transfer.datasets.samples import DetectionSet
from transfer.detection.lr_sweep import split

WIDTH, HEIGHT = 40, 30
RLE = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}

# What a record may have in place of the usual; the reader notes, repairs or refuses each.
ODD: list[dict[str, Any]] = [
    {"segmentation": RLE, "iscrowd": 1},
    {"segmentation": [[1, 1, 5, 1, 5, 5], [0, 0, 1, 1]]},
    {"segmentation": [[0, 0, 1, 1]]},
    {"segmentation": []},
    {"segmentation": None},
    {"bbox": [1, 2, 0, 4]},
    {"bbox": [30, 20, 20, 20]},
    {"bbox": ["1", 2, 3, 4]},
    {"iscrowd": None},
    {"area": None},
    {"area": -1},
    {"ignore": 0},
    {"category_id": "2"},
    {"image_id": "3"},
    {"id": 7007.0},
    {"image_id": 4.0},
    {"bbox": [-0.5, -0.5, 40.9, 30.9]},
    {"bbox": [0.0, 0.0, 0.5, 0.5]},
]
BAD: list[dict[str, Any]] = [
    {"bbox": [1, 2, -3, 4]},
    {"bbox": [50, 2, 3, 4]},
    {"bbox": [1, 2, float("nan"), 4]},
    {"bbox": [1, 2, 3]},
    {"bbox": [True, 2, 3, 4]},
    {"segmentation": [1, 1, 5, 1, 5, 5]},
    {"segmentation": [[1, 1, 5, 1, 5, 2e6]]},
    {"segmentation": [[1, 1, 5, 1, 5, float("inf")]]},
    {"segmentation": {**RLE, "counts": [3]}},
    {"segmentation": {**RLE, "counts": [3.5, "4"]}},
    {"segmentation": {**RLE, "counts": [2**70]}},
    {"ignore": 1},
    {"image_id": 999},
    {"category_id": 999},
    {"image_id": [1]},
]


@pytest.fixture(autouse=True)
def many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_annotations, "PIECE", 64)


def content(seed: int, changes: list[dict[str, Any]]) -> dict[str, Any]:
    """A file of many usual objects, with some changed ones between them."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": int(i), "file_name": f"é{i}.png", "height": HEIGHT, "width": WIDTH}
        for i in rng.permutation(30) + 1
    ]
    categories = [{"id": 9, "name": "dog"}, {"id": 2, "name": "cat"}]
    annotations = []
    for number in range(200):
        x, y, w, h = rng.uniform([0, 0, 2, 2], [20, 15, 15, 10]).round(2).tolist()
        record: dict[str, Any] = {
            "id": number + 1,
            "image_id": int(rng.integers(1, 25)),
            "category_id": int(rng.choice([2, 9])),
            "bbox": [x, y, w, h],
            "area": w * h,
            "iscrowd": int(rng.random() < 0.05),
            "segmentation": [[x, y, x + w, y, x + w, y + h]] * int(rng.integers(0, 3)),
        }
        if rng.random() < 0.1:
            del record["iscrowd"], record["area"]
        annotations.append(record)
    for change, place in zip(changes, rng.permutation(200)):
        annotations[place] |= copy.deepcopy(change)
    return {"images": images, "annotations": annotations, "categories": categories}


def both(folder: Path, whole: dict[str, Any], caplog: pytest.LogCaptureFixture) -> list[Any]:
    """[(samples, what was said)] of the file by columns and of its parsed content."""
    path, photos = folder / "x.json", folder / "photos"
    photos.mkdir(exist_ok=True)
    for image in whole["images"]:
        (photos / image["file_name"]).touch()
    path.write_text(json.dumps(whole))
    contents: list[Callable[[], Any]] = [
        lambda: read_json(path, photos),
        lambda: json.loads(path.read_text()),
    ]
    found = []
    for make in contents:
        findings.warn_once.cache_clear()
        caplog.clear()
        try:
            with caplog.at_level(logging.WARNING):
                samples: Any = read_coco(path, photos, make(), ("cat", "dog"))
            found.append((samples, caplog.messages.copy()))
        except InputError as error:
            found.append((None, [str(error)]))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_odd_records(tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    for changes in ([], ODD[seed::4], ODD):
        whole = content(seed, changes)
        (columns, said), (samples, expected) = both(tmp_path, whole, caplog)
        assert isinstance(columns, SampleColumns) and isinstance(samples, tuple)
        assert tuple(columns) == samples and columns[5:9] == samples[5:9]
        assert columns[-1] == samples[-1] and len(columns) == 30
        assert said == expected and bool(said) == bool(changes)


@pytest.mark.parametrize("number", range(len(BAD)))
def test_refused_records(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = content(number, [BAD[number], *ODD[:3], BAD[number - 1]])
    (columns, said), (samples, expected) = both(tmp_path, whole, caplog)
    assert columns is None and samples is None
    assert said == expected


def test_what_all_boxes_decide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Corners in place of sizes, relative boxes, ids that are text, and no object at all."""
    for kind in ("corners", "relative", "text", "empty"):
        whole = content(1, [])
        for record in whole["annotations"]:
            x, y, w, h = record["bbox"]
            if kind == "corners":
                record["bbox"] = [x, y, x + w, y + h]
            elif kind == "relative":
                record["bbox"] = [x / WIDTH, y / HEIGHT, 0.3, 0.1]
            elif kind == "text":
                record["image_id"] = str(record["image_id"])
        if kind == "text":
            for image in whole["images"]:
                image["id"] = str(image["id"])
        elif kind == "empty":
            whole["annotations"] = []
        (columns, said), (samples, expected) = both(tmp_path, whole, caplog)
        assert said == expected and bool(said) == (kind in ("corners", "relative")), kind
        assert columns is samples is None if kind == "relative" else tuple(columns) == samples


def test_columns_are_the_records() -> None:
    records = [*content(0, ODD)["annotations"], *BAD]
    columns = AnnotationColumns(records)
    assert len(columns) == len(records) and set(columns.odd) >= set(range(200, 215))
    for place, record in enumerate(records):
        read = {k: v for k, v in record.items() if v or k not in ("segmentation", "ignore")}
        assert columns[place] == (record if place in columns.odd else read)
    assert len(columns.odd) < 60


def test_a_set_of_columns_counts_and_splits_like_one_of_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (columns, _), (samples, _) = both(tmp_path, content(2, ODD), caplog)
    ours = DetectionSet("x", "coco", columns, ("cat", "dog"), (2, 9))
    plain = replace(ours, samples=samples)
    assert count(ours) == count(plain) and count(ours).empty > 0
    assert ours.has_run_lengths() == plain.has_run_lengths()
    assert ours.wide() == plain.wide() == [True] * 30
    for rows in (ours.trainable_rows(), np.array([3, 1]), np.zeros(0, np.int64)):
        part, expected = ours.part(rows), plain.part(rows)
        assert tuple(part.samples) == expected.samples and count(part) == count(expected)
    assert tuple(ours.limited(4).samples) == plain.limited(4).samples
    for one, two in zip(split(ours, 0.3, 1), split(plain, 0.3, 1)):
        assert tuple(one.samples) == two.samples
    for part in (Part(20, "%"), Part(2, "shot"), None):
        found, expected = (few_labels(s, part, ours.classes, 1) for s in (columns, samples))
        assert tuple(found) == expected
    check_trainable(ours)
    messages = []
    for data in (ours, plain):
        with pytest.raises(InputError) as error:
            check_masks(data, "annotate them")
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_several_files_are_one_set(tmp_path: Path) -> None:
    for name in ("one", "two"):
        whole = content(len(name), [])
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.json").write_text(json.dumps(whole))
        for image in whole["images"]:
            (tmp_path / name / image["file_name"]).touch()
    names = [f"coco:{tmp_path}/{name}.json:{tmp_path}/{name}" for name in ("one", "two")]
    data = open_sets(names)
    first = open_sets(names[:1])
    assert len(data) == 60 and tuple(data.samples)[:30] == tuple(first.samples)
    assert data.classes == read_classes([content(0, [])])
