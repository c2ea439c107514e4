"""The COCO reader: order, category map, crowd, polygons, run lengths, and damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from transfer.datasets.coco import read_categories, read_coco, read_json

TRIANGLE = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0]


def annotation(number: int = 1, **changes: object) -> dict:
    base = {"id": number, "image_id": 7, "category_id": 30, "bbox": [1, 2, 3, 4], "iscrowd": 0}
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
    first, second = read(folder, annotation(iscrowd=1), annotation(2, image_id=9, category_id=4))
    assert (first.image_id, second.image_id) == (7, 9)
    assert first.instances[0].category == 1 and first.instances[0].crowd
    assert not first.trainable() and second.trainable()
    assert second.instances[0].category == 0
    assert second.instances[0].box == (1.0, 2.0, 4.0, 6.0)


def test_corners_are_sums_in_float32_as_detectron2s(folder: Path) -> None:
    x, y, width, height = bbox = [0.1, 0.7, 12.37, 7.19]
    sample, _ = read(folder, annotation(bbox=bbox))
    single = np.float32
    expected = (single(x), single(y), single(x) + single(width), single(y) + single(height))
    assert sample.instances[0].box == tuple(map(float, expected))
    assert sample.instances[0].box[2] != x + width


def test_short_polygons_are_dropped_and_empty_objects_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample, _ = read(
        folder,
        annotation(3, segmentation=[TRIANGLE, [0, 0, 1, 1]]),
        annotation(4, segmentation=[[0, 0, 1, 1]]),
        annotation(5, segmentation=[]),
    )
    assert [i.polygons for i in sample.instances] == [[TRIANGLE], None]
    (record,) = caplog.records
    assert "half a point, were dropped (2: annotation 3, annotation 4)" in record.message
    assert "objects without any other polygon were skipped (1: annotation 4)" in (record.message)


def test_a_box_without_area_is_kept_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in Detectron2: training filters it, scoring counts it among the objects."""
    sample, _ = read(folder, annotation(), annotation(2, bbox=[3, 4, 0, 5]))
    assert sample.instances[1].box == (3.0, 4.0, 3.0, 9.0)
    assert "boxes without area are not trained on (1: annotation 2)" in caplog.text


def test_crowd_is_legal_and_silent(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rle = {"size": [10, 20], "counts": [5, 10, 185]}
    read(folder, annotation(iscrowd=1, segmentation=rle, bbox=[-0.5, 0, 20.9, 10]))
    assert not caplog.records


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
        ({"bbox": [1, float("nan"), 3, 4]}, "not inside"),
        ({"bbox": [1, 2, 3]}, r"annotation 1 has the bbox \[1, 2, 3\], not x, y, width"),
        ({"bbox": None}, "annotation 1 has the bbox None"),
        ({"ignore": 1}, "annotation 1 is marked 'ignore'"),
        ({"segmentation": [1, 1, 5, 1, 5, 5]}, "annotation 1.* no list of polygons"),
        ({"segmentation": {"size": [20, 10], "counts": "x"}}, r"of size \[20, 10\].*\[10, 20\]"),
        ({"segmentation": {"size": [10, 20]}}, "annotation 1 has run lengths"),
    ],
)
def test_bad_annotation(folder: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, annotation(**change))


def test_annotations_of_unlisted_images_are_counted(folder: Path) -> None:
    with pytest.raises(InputError, match=r"x\.json: annotation 2 is of unknown image 8.*2 such"):
        read(folder, annotation(), annotation(2, image_id=8), annotation(3, image_id=8))


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_what_scoring_needs_is_asked_of_test_sets_alone(folder: Path, key: str) -> None:
    entry = {**annotation(area=12.0), "id": 6}
    del entry[key]
    assert len(read(folder, entry)[0].instances) == 1
    with pytest.raises(InputError, match=f"annotation 6 has no '{key}', which COCO's metrics need"):
        read_coco(folder / "x.json", folder, content(entry), ("cat", "dog"), scored=("bbox",))


@pytest.mark.parametrize("mask", [[], [[1, 1, 2, 2]], [[1, 1, 2, 2], TRIANGLE]])
def test_mask_metrics_need_masks(folder: Path, mask: list) -> None:
    whole = content(annotation(area=12.0, segmentation=mask))
    classes = ("cat", "dog")
    read_coco(folder / "x.json", folder, whole, classes, scored=("bbox",))
    with pytest.raises(InputError, match="annotation 1 has no mask, or a polygon with fewer"):
        read_coco(folder / "x.json", folder, whole, classes, scored=("bbox", "segm"))


def check_file(folder: Path, name: str, **changes: object) -> None:
    (folder / name).write_text(json.dumps({**content(annotation()), **changes}))
    read_json(folder / name, folder)


def test_duplicate_ids(folder: Path) -> None:
    whole = content(annotation())
    for part in ("images", "categories", "annotations"):
        doubled = {part: [*whole[part], whole[part][0]]}
        words = rf"x\.json: the id {whole[part][0]['id']} occurs twice in '{part}'"
        with pytest.raises(InputError, match=words):
            check_file(folder, "x.json", **doubled)
    check_file(folder, "x_minival.json", annotations=[annotation(), annotation()])
    names = [{"id": 1, "name": "cat"}, {"id": 2, "name": "cat"}]
    with pytest.raises(InputError, match="lists the name 'cat' twice"):
        check_file(folder, "x.json", categories=names)


@pytest.mark.parametrize(
    ("part", "key"),
    [("images", "height"), ("images", "file_name"), ("annotations", "bbox"),
     ("annotations", "category_id"), ("categories", "name")],
)  # fmt: skip
def test_missing_keys(folder: Path, part: str, key: str) -> None:
    entries = content(annotation())[part]
    del entries[0][key]
    with pytest.raises(InputError, match=rf"{part}\[id {entries[0]['id']}\] has no '{key}'"):
        check_file(folder, "x.json", **{part: entries})
    del entries[0]["id"]
    with pytest.raises(InputError, match=f"an entry of {part} has no 'id'"):
        check_file(folder, "x.json", **{part: entries})


def test_class_outside_the_training_set(folder: Path) -> None:
    with pytest.raises(InputError, match="category 'dog', which is none of the 1 classes"):
        read_coco(folder / "x.json", folder, content(), ("cat",))


def test_missing_image(folder: Path) -> None:
    (folder / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png is missing"):
        read(folder)


def test_bad_files(folder: Path) -> None:
    path = folder / "x.json"
    with pytest.raises(InputError, match=r"x.json is missing; expected .*/{.*/x.json, .*/\*.jpg}"):
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
