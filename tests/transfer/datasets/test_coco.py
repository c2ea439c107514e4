"""The COCO reader: order, category map, crowd, polygons, run lengths, and damage."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from transfer.datasets.coco import read_categories, read_classes, read_coco, read_json
from transfer.datasets.coco_annotations import AnnotationColumns

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
    assert "cannot be found in a test set (1: annotation 2)" in caplog.text


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
        ({"image_id": None}, "annotation 1 has the unknown image null"),
        ({"category_id": [30]}, r"unknown category \[30\]; 'categories' lists 4, 30"),
        (
            {"bbox": [21.5, 2, 3, 4]},
            r"completely outside .*annotation 1 \(21.5, 2, 24.5, 6\) in 20 x 10",
        ),
        ({"bbox": [1, -9, 3, 4]}, "boxes are completely outside their image"),
        ({"bbox": [1, 2, -3, 4]}, r"negative width or height \(1: annotation 1 \(1, 2, -2, 6\)"),
        (
            {"bbox": [1, float("nan"), 3, 4]},
            r"not finite numbers \(1: annotation 1 \(bbox \[1, NaN",
        ),
        ({"bbox": [1, 2, float("inf"), 4]}, r"not finite numbers \(1: annotation 1 \(bbox"),
        ({"bbox": [1, 2, "3,5", 4]}, r'not finite numbers.*annotation 1 \(bbox \[1, 2, "3,5", 4\]'),
        ({"bbox": [1, 2, True, 4]}, "values are not finite numbers"),
        (
            {"bbox": [1, 2, 3]},
            r"not a list x, y, width, height \(1: annotation 1 \(bbox \[1, 2, 3\]",
        ),
        ({"bbox": None}, r"annotation 1 \(bbox null\)"),
        ({"bbox": {"x": 1}}, "not a list x, y, width, height"),
        ({"bbox": [1, 2, "3_0", 4]}, r'not finite numbers.*\(bbox \[1, 2, "3_0", 4\]'),
        ({"image_id": "0_7"}, 'unknown image "0_7"'),
        ({"ignore": True}, r"'ignore', which is not supported \(1: annotation 1\); use 'iscrowd'"),
        ({"iscrowd": "no"}, r'not finite numbers \(1: annotation 1 \(iscrowd "no"\)'),
        ({"area": "big"}, r'not finite numbers \(1: annotation 1 \(area "big"\)'),
        (
            {"ignore": 1},
            r"marked 'ignore', which is not supported \(1: annotation 1\); use 'iscrowd'",
        ),
        (
            {"segmentation": [1, 1, 5, 1, 5, 5]},
            "polygons are not in a list of polygons.*tation 1",
        ),
        ({"segmentation": "1 1 5 1"}, r'nor run lengths \(1: annotation 1 \("1 1 5 1"\)'),
        ({"segmentation": [[1, 1], [5, 1], [5, 5]]}, r"lists of points, as .* \(1: annotation 1"),
        (
            {"segmentation": [[[1, 1], [5, 1], [5, 5]]]},
            r"lists of points, as .* \(1: annotation 1",
        ),
        (
            {"segmentation": [[1, 1, 5, None, 5, 5]]},
            "not finite numbers.*annotation 1 .segmentation",
        ),
        ({"segmentation": [[1, 1, 5, float("nan"), 5, 5]]}, "not finite numbers.*annotation 1"),
        ({"segmentation": [TRIANGLE, [1, 1, 5, 2e6, 5, 5]]}, "a million pixels and more.*tation 1"),
        ({"segmentation": [{"size": [10, 20], "counts": [200]}]}, "run lengths are inside a list"),
        (
            {"segmentation": {"size": [20, 10], "counts": "x"}},
            r"different size.*\[20, 10\].*\[10, 20\]",
        ),
        ({"segmentation": {"size": [10, 20]}}, r"cannot be read \(1: annotation 1 \(counts null"),
        ({"segmentation": {"size": None, "counts": [200]}}, r"different size.*annotation 1 \(null"),
    ],
)
def test_bad_annotation(folder: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(folder, annotation(**change))


def test_annotations_of_unlisted_images_are_counted(folder: Path) -> None:
    with pytest.raises(InputError, match=r"x\.json: annotation 2 has the unknown image 8.*2 such"):
        read(folder, annotation(), annotation(2, image_id=8), annotation(3, image_id=8))


@pytest.mark.parametrize("key", ["area", "iscrowd"])
def test_what_scoring_needs_is_noted_of_test_sets_alone(
    folder: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    entries = [{**annotation(area=12.0), "id": i} for i in range(6, 11)]
    for entry in entries:
        del entry[key]
    assert len(read(folder, *entries)[0].instances) == 5
    assert not caplog.records
    read_coco(folder / "x.json", folder, content(*entries), ("cat", "dog"), scored=("bbox",))
    (record,) = caplog.records
    assert f"objects have no '{key}' (missing or null)" in record.message
    assert "(5, first: annotation 6, annotation 7, annotation 8)" in record.message


def test_a_null_crowd_flag_is_no_crowd(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    sample, _ = read(folder, annotation(iscrowd=None), annotation(2, iscrowd=True))
    assert [i.crowd for i in sample.instances] == [False, True]
    assert "no 'iscrowd' (missing or null) and count as single objects (1: annotation 1)" in (
        caplog.text
    )


@pytest.mark.parametrize("mask", [[], {}, [[1, 1, 2, 2]], [[], [1, 1, 2, 2, 3]]])
def test_mask_metrics_need_masks(folder: Path, mask: list) -> None:
    whole = content(annotation(area=12.0, segmentation=mask))
    classes = ("cat", "dog")
    read_coco(folder / "x.json", folder, whole, classes, scored=("bbox",))
    with pytest.raises(
        InputError, match=r"have no mask, or only polygons with fewer.*\(1: annotation 1\); correct"
    ):
        read_coco(folder / "x.json", folder, whole, classes, scored=("bbox", "segm"))


def test_an_area_of_0_beside_a_box_is_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pycocotools takes it, so that the object is a small one."""
    entries = [annotation(1, area=0), annotation(2, area=12), annotation(3, area=0.0)]
    entries.append(annotation(4, area=0, bbox=[1, 2, 0, 4]))
    whole = content(*entries)
    read(folder, *entries)
    assert "'area' 0" not in caplog.text
    read_coco(folder / "x.json", folder, whole, ("cat", "dog"), scored=("bbox",))
    assert "count as small in the AP by size (2: annotation 1, annotation 3)" in caplog.text


def test_masks_without_a_pixel_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks: list = [
        [[30.0, 1.0, 40.0, 1.0, 40.0, 9.0]],  # outside
        [[1.0, 1.0, 9.0, 1.0, 1.0, 1.0]],  # a line
        {"size": [10, 20], "counts": [200]},
        [[-9.0, -9.0, 5.0, 1.0, 5.0, 5.0]],  # partly inside
        [TRIANGLE],
    ]
    entries = [annotation(number, segmentation=mask) for number, mask in enumerate(masks, 1)]
    assert len(read(folder, *entries)[0].instances) == 5 and not caplog.records
    read_coco(folder / "x.json", folder, content(*entries), ("cat", "dog"), scored=("segm",))
    assert "as never found" in caplog.text
    assert "(3: annotation 1, annotation 2, annotation 3)" in caplog.text


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
    with pytest.raises(InputError, match=rf"{part}\[0\] has no 'id'"):
        check_file(folder, "x.json", **{part: entries})


def test_class_outside_the_training_set(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="category 'dog', which is not one of the 1 classes"):
        read_coco(folder / "x.json", folder, content(annotation()), ("cat",))
    assert not caplog.records
    other = annotation(category_id=4)
    sample, _ = read_coco(folder / "x.json", folder, content(other), ("cat",))
    assert [i.category for i in sample.instances] == [0]
    assert "not among the classes, and were left out (1: 'dog')" in caplog.text


@pytest.mark.parametrize(
    ("known", "name", "hint"),
    [
        ("caf\u00e9", "cafe\u0301", "did you mean 'caf\u00e9', which writes its accents in a diff"),
        ("CAT", "cat", "did you mean 'CAT'?"),
        ("cat", "cat ", "did you mean 'cat'?"),
    ],
)
def test_a_class_of_nearly_the_same_name(folder: Path, known: str, name: str, hint: str) -> None:
    whole = content(annotation())
    whole["categories"][0]["name"] = name
    with pytest.raises(InputError, match=re.escape(f"which is not one of the 1 classes ({hint}")):
        read_coco(folder / "x.json", folder, whole, (known,))


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
    for damaged in ("[" * 100_000, "1" * 5000):
        path.write_text(damaged)
        with pytest.raises(InputError, match="not valid JSON"):
            read_json(path, folder)
    path.write_text("[]")
    with pytest.raises(InputError, match="no list 'images'"):
        read_json(path, folder)
    path.write_text(json.dumps({**content(), "images": []}))
    with pytest.raises(InputError, match="does not list any image"):
        read_json(path, folder)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x1f\x8b\x08\0", "is packed with gzip; unpack it"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "is a pointer of Git LFS; run `git lfs pull`",
        ),
        (b"\n<!DOCTYPE html>", "is a page of markup"),
        (b"", "is empty"),
        (
            b'{"images": [], "images": [{}]}',
            "the key 'images' occurs twice in one object.: correct it",
        ),
        (b"{'images': []}", "damaged, or written by hand; JSON has double quotes only"),
        (b'{"images": [],}', "Expecting property name.* nor a comma before } or ]"),
        (b"// mine\n{}", "Expecting value.*neither comments nor"),
        (b'{"images": [{"id"', "Expecting ':' delim.*: truncated; restore it"),
        (b'{"images": [{"file_name": "a.j', "Unterminated string.*: truncated; restore it"),
        (b'{"id": 1}\n{"id": 2}\n', "Extra data.*as in JSON Lines; a COCO file is one record"),
        (bytes(80), "is empty, or has only zeros"),
    ],
)
def test_what_is_there_in_place_of_json(folder: Path, start: bytes, what: str) -> None:
    (folder / "x.json").write_bytes(start)
    with pytest.raises(InputError, match=f"x.json .*{what}"):
        read_json(folder / "x.json", folder)


RESULT = {"image_id": 7, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    "other, what",
    [
        ([RESULT], "is a list of detections, .*; give the annotations with which they are"),
        ({"annotations": [{"id": 1, "image_id": 7, "caption": "a cat"}]},
         "is a file of captions, .* of instances"),
        ({"annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": []}]},
         "is a file of panoptic segments, .* of instances"),
        ({"annotations": [{"id": 1, "video_id": 1, "category_id": 4, "bboxes": []}]},
         "is a file of objects in videos"),
        ({"shapes": [], "imagePath": "a.jpg"}, "is labelme's file of one image"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "is a project of VGG Image Annotator"),
        ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "is Label Studio's own JSON"),
        ([{"name": "a.jpg", "labels": [{"category": "car"}]}], "is a file in the format of BDD"),
        ([content()], "is a list around a COCO file, .*; remove the list"),
    ],
)  # fmt: skip
def test_other_files_are_named(folder: Path, other: Any, what: str) -> None:
    if isinstance(other, dict) and "annotations" in other:
        other = content() | other
    (folder / "x.json").write_text(json.dumps(other))
    with pytest.raises(InputError, match=f"x.json {what}"):
        read_json(folder / "x.json", folder)


def test_captions_and_segments_beside_a_box(folder: Path) -> None:
    """Tools add their own keys; an object with a box is one all the same."""
    entry = annotation(caption="a cat", segments_info=[])
    (folder / "x.json").write_text(json.dumps(content(entry)))
    assert len(read_json(folder / "x.json", folder)["annotations"]) == 1


def test_only_short_polygons_leave_nothing_to_train_on(folder: Path) -> None:
    shorts = [annotation(n, segmentation=mask) for n, mask in ((1, [[]]), (2, [[1, 1, 2, 2]]))]
    with pytest.raises(
        InputError,
        match=r"no object is left to train on: all .* \(2: annotation 1, annotation 2\); write",
    ):
        read(folder, *shorts)
    sample, _ = read_coco(
        folder / "x.json", folder, content(*shorts), ("cat", "dog"), scored=("bbox",)
    )
    assert [found.polygons for found in sample.instances] == [None, None]


def test_an_area_larger_than_the_box_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """pycocotools takes it, so that the object may count as a large one; 20 is within a pixel."""
    whole = content(*(annotation(n, area=area) for n, area in enumerate((12, 20, 21, "200"))))
    read_coco(folder / "x.json", folder, whole, ("cat", "dog"))
    assert "larger than their box" not in caplog.text
    read_coco(folder / "x.json", folder, whole, ("cat", "dog"), scored=("bbox",))
    said = "they count (2: annotation 2 (area 21), annotation 3 (area 200))"
    assert said in caplog.text


def test_rotated_boxes_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """CVAT writes the upright box and its rotation; in training and test sets of any size."""
    angles = (0.0, 30.5, "12", None, -7)
    records = [annotation(n, attributes={"rotation": angle}) for n, angle in enumerate(angles)]
    records.append(annotation(9, attributes=["rotation"]))
    said = '(3: annotation 1 (rotation 30.5), annotation 2 (rotation "12"), annotation 4 (ro'
    whole = content(*records)
    for entries in (records, AnnotationColumns(records)):
        for scored in ((), ("bbox",)):
            whole["annotations"] = entries
            warn_once.cache_clear()
            caplog.clear()
            sample, _ = read_coco(folder / "x.json", folder, whole, ("cat", "dog"), scored=scored)
            assert "taken as it was before it was rotated " + said in caplog.text
            assert {found.box for found in sample.instances} == {(1.0, 2.0, 4.0, 6.0)}


def test_other_crowd_flags_are_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    flags = (2, -1, 1, 0, "1")
    sample, _ = read(folder, *(annotation(n, iscrowd=flag) for n, flag in enumerate(flags)))
    assert [found.crowd for found in sample.instances] == [True, True, True, False, True]
    assert "crowd regions (2: annotation 0 (iscrowd 2), annotation 1 (iscrowd -1))" in caplog.text


def test_classes_that_differ_in_letter_case(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = content(annotation(), annotation(2, category_id=5))
    whole["categories"].append({"id": 5, "name": "Dog "})
    names = ("cat", "Dog ", "dog")
    sample, _ = read_coco(folder / "x.json", folder, whole, names)
    assert [found.category for found in sample.instances] == [2, 1]
    assert "and are kept apart (1: 'Dog ' and 'dog')" in caplog.text
    whole["categories"] = [
        {**entry, "name": name}
        for entry, name in zip(whole["categories"], ("caf\u00e9", "cat", "cafe\u0301"))
    ]
    read_coco(folder / "x.json", folder, whole, ("cafe\u0301", "caf\u00e9", "cat"))
    assert "and are kept apart (1: 'cafe\u0301' and 'caf\u00e9')" in caplog.text


def test_a_file_without_categories(folder: Path) -> None:
    whole = {**content(annotation()), "categories": []}
    with pytest.raises(InputError, match=r"'categories' lists none \(1 such annotations\)"):
        read_coco(folder / "x.json", folder, whole, ("cat", "dog"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_json(folder: Path, encoding: str) -> None:
    """With a byte order mark or without, as PowerShell and Excel write them."""
    whole = content(annotation())
    whole["categories"][0]["name"] = "çã"
    (folder / "x.json").write_text(json.dumps(whole, ensure_ascii=False), encoding=encoding)
    assert read_json(folder / "x.json", folder) == whole


SMALL = {"file_name": "a", "height": 1, "width": 1}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("annotations", None, r"entries are not records \(1: annotations\[1\] \(null\)\)"),
        ("images", "a.png", r'images\[2\] \("a.png"\)'),
        ("categories", ["cat"], r"categories\[2\] .*cat"),
        ("images", {"id": None, **SMALL}, r"images\[2\] \(id null"),
        ("images", {"id": 1.5, **SMALL}, r"images\[2\] \(id 1.5"),
        ("images", {"id": "x", **SMALL}, "1 of the 3 ids of 'images'"),
        ("images", {"id": 7.0, **SMALL}, "the id 7 occurs twice"),
        ("annotations", {"id": True}, r"annotations\[1\] \(id true\)"),
        ("categories", {"id": 5, "name": ""}, r'or empty \(1: categories\[2\] \(name ""\)\)'),
        ("categories", {"id": 5, "name": None}, r"names of classes are not text.*\(name null\)"),
    ],
)  # fmt: skip
def test_entries_of_another_type(folder: Path, part: str, value: object, message: str) -> None:
    whole = content(annotation())
    with pytest.raises(InputError, match=message):
        check_file(folder, "x.json", **{part: [*whole[part], value]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": None}, r"no width and height in whole pixels \(1: images\[id 9\] \(width null"),
        ({"height": 0}, r"in whole pixels \(1: images\[id 9\] \(height 0"),
        ({"height": 10.5}, r"\(height 10.5"),
        ({"width": "wide"}, r'not finite numbers \(1: images\[id 9\] \(width "wide"'),
        ({"width": float("nan")}, r"not finite numbers \(1: images\[id 9\] \(width NaN"),
        ({"file_name": None}, r"entries have no name \(1: images\[id 9\] \(file_name null"),
    ],
)
def test_images_without_size_or_name(folder: Path, changes: dict, message: str) -> None:
    whole = content(annotation(image_id=9))
    whole["images"][0].update(changes)
    with pytest.raises(InputError, match=message):
        read_coco(folder / "x.json", folder, whole, ("cat", "dog"))


def test_numbers_and_ids_of_another_type_are_read(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content(
        annotation(image_id="7", bbox=["1", 2, " 3.5 ", "4e0"]),
        annotation(2, image_id=9.0, category_id="4", segmentation=[["1", 1, 5, 1, 5, "5"]]),
    )
    whole["images"][1].update(width="20", height=10.0)
    first, second = read_coco(folder / "x.json", folder, whole, ("cat", "dog"))
    assert (first.image_id, first.width, first.height) == (7, 20, 10)
    assert first.instances[0].box == (1.0, 2.0, 4.5, 6.0)
    assert second.instances[0].category == 0 and second.instances[0].polygons == [TRIANGLE]
    (record,) = caplog.records
    assert 'read as numbers (3: images[id 7] (width "20"), annotation 1 (bbox ["1", 2' in (
        record.message
    )
    assert 'matched by their digits (2: annotation 1 ("7"), annotation 2 ("4"))' in record.message


def test_text_ids_are_sorted_as_text(folder: Path) -> None:
    """In the order of pycocotools and Detectron2."""
    whole = content(annotation(image_id="b"), annotation("x", image_id="a", category_id="k"))
    for entry, key in zip(whole["images"], "ba"):
        entry["id"] = key
    whole["categories"] = [{"id": "k", "name": "dog"}, {"id": "a", "name": "cat"}]
    whole["annotations"][0]["category_id"] = "a"
    assert read_categories(whole) == {"a": "cat", "k": "dog"}
    samples = read_coco(folder / "x.json", folder, whole, ("cat", "dog"))
    assert [(s.image_id, s.instances[0].category) for s in samples] == [("a", 1), ("b", 0)]


def test_boxes_beyond_the_image_keep_their_numbers(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sample, _ = read(folder, annotation(bbox=[-4, 2, 30, 4]), annotation(2))
    assert sample.instances[0].box == (-4.0, 2.0, 26.0, 6.0)
    (record,) = caplog.records
    assert "of 2 boxes these reach beyond their image" in record.message
    assert "(1: annotation 1 (-4, 2, 26, 6) in 20 x 10)" in record.message


def test_corners_in_place_of_sizes_are_asked_about(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corners = [[5, 2, 19, 9], [10, 4, 18, 8], [3, 1, 6, 5]]
    read(folder, *(annotation(i, bbox=box) for i, box in enumerate(corners)))
    assert (
        "all would fit as x1, y1, x2, y2: is that what they are? (2: annotation 0," in caplog.text
    )
    caplog.clear()
    read(folder, *(annotation(i, bbox=box) for i, box in enumerate([*corners, [9, 2, 4, 3]])))
    assert "x1, y1" not in caplog.text


def test_relative_boxes(folder: Path) -> None:
    boxes = [[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.5, 0.5]]
    entries = [annotation(i, bbox=box) for i, box in enumerate(boxes)]
    with pytest.raises(InputError, match=r"below 1 px: relative coordinates\? \(3, first: annot"):
        read(folder, *entries)
    assert len(read(folder, *entries, annotation(4))[0].instances) == 4, "one is larger"


ROOT = {"id": 0, "name": "pets", "supercategory": "none"}


def rooted(*annotations: dict, root: dict = ROOT) -> dict:
    whole = content(*annotations)
    whole["categories"] = [root, *({**c, "supercategory": "pets"} for c in whole["categories"])]
    return whole


def test_a_root_is_dropped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = rooted(annotation())
    assert read_categories(whole) == {4: "cat", 30: "dog"}
    assert read_classes([whole]) == ("cat", "dog")
    sample, _ = read_coco(folder / "x.json", folder, whole, ("cat", "dog"))
    assert sample.instances[0].category == 1
    assert "only group others, and were dropped (1: 'pets' (id 0))" in caplog.text
    same = rooted(annotation(), root={**ROOT, "name": "dog"})
    for category in same["categories"][1:]:
        category["supercategory"] = "dog"
    check_file(folder, "x.json", **same)
    assert read_categories(same) == {4: "cat", 30: "dog"} == read_categories(same, ["cat", "dog"])


def test_what_is_no_root_is_kept(folder: Path) -> None:
    used = rooted(annotation(category_id=0))
    assert read_categories(used) == {0: "pets", 4: "cat", 30: "dog"}
    # COCO's person is its own supercategory, and a class below another is not a root
    own = rooted(annotation(), root={"id": 0, "name": "bee", "supercategory": "bee"})
    assert read_categories(own)[0] == "bee"
    # a file that uses it makes it a class of the whole training set
    assert read_classes([rooted(annotation()), used]) == ("pets", "cat", "dog")
    with pytest.raises(InputError, match="lists the name 'dog' twice"):
        check_file(folder, "x.json", **rooted(annotation(), root={"id": 0, "name": "dog"}))


def test_an_unused_root_of_a_test_file_keeps_the_id_of_its_class() -> None:
    assert read_categories(rooted(annotation()), ["pets", "cat"])[0] == "pets"
