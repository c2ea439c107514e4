"""The COCO reader: order, category map, crowd, polygons, run lengths, and damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.coco import read_categories, read_coco, read_json

TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0]


def annotation(**changes: object) -> dict:
    base = {"id": 1, "image_id": 7, "category_id": 30, "bbox": [1, 2, 3, 4], "iscrowd": 0}
    return {**base, "segmentation": [TRIANGLE], **changes}


def content(*annotations: dict) -> dict:
    images = [
        {"id": 9, "file_name": "b.png", "height": 10, "width": 20},
        {"id": 7, "file_name": "a.png", "height": 10, "width": 20},
    ]
    categories = [{"id": 30, "name": "dog"}, {"id": 4, "name": "cat"}]
    return {"images": images, "annotations": list(annotations), "categories": categories}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    return tmp_path


def read(folder: Path, *annotations: dict) -> tuple:
    return read_coco(folder / "x.json", folder, content(*annotations), ("cat", "dog"))


def test_images_and_categories_are_sorted_by_id(folder: Path) -> None:
    assert read_categories(content()) == {4: "cat", 30: "dog"}
    first, second = read(folder, annotation(iscrowd=1), annotation(image_id=9, category_id=4))
    assert (first.image_id, second.image_id) == (7, 9)
    assert first.instances[0].category == 1 and first.instances[0].crowd
    assert not first.trainable() and second.trainable()
    assert second.instances[0].category == 0
    assert second.instances[0].box == (1.0, 2.0, 4.0, 6.0)


def test_short_polygons_are_dropped_and_empty_objects_skipped(folder: Path) -> None:
    sample, _ = read(
        folder,
        annotation(segmentation=[TRIANGLE, [0, 0, 1, 1]]),
        annotation(segmentation=[[0, 0, 1, 1]]),
        annotation(segmentation=[]),
    )
    assert [i.polygons for i in sample.instances] == [[TRIANGLE], None]


def test_run_lengths_are_compressed(folder: Path) -> None:
    rle = {"size": [10, 20], "counts": [5, 10, 185]}
    sample, _ = read(folder, annotation(segmentation=rle))
    from pycocotools import mask as mask_utils

    assert mask_utils.decode(sample.instances[0].rle).sum() == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 1}, "unknown image 1"),
        ({"category_id": 1}, "unknown category 1"),
        ({"bbox": [1, 2, 30, 4]}, "not inside image a.png of 20 x 10"),
        ({"bbox": [1, 2, -3, 4]}, "not inside"),
    ],
)
def test_bad_annotation(folder: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, annotation(**change))


def test_class_outside_the_training_set(folder: Path) -> None:
    with pytest.raises(InputError, match="category 'dog', which is none of the 1 classes"):
        read_coco(folder / "x.json", folder, content(), ("cat",))


def test_missing_image(folder: Path) -> None:
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png is missing"):
        read(folder)


def test_bad_files(folder: Path) -> None:
    path = folder / "x.json"
    with pytest.raises(InputError, match="x.json is missing; expected"):
        read_json(path, folder)
    path.write_text(json.dumps(content())[:50])
    with pytest.raises(InputError, match="not valid JSON.*truncated"):
        read_json(path, folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="no list 'images'"):
        read_json(path, folder)
    path.write_text(json.dumps({**content(), "images": []}))
    with pytest.raises(InputError, match="lists no image"):
        read_json(path, folder)
