"""Unusual but valid annotations are read as Detectron2's readers and mapper read them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.transfer.lvis_files import lend_lvis, lvis_content, write_lvis
from transfer.datasets.registry import open_sets
from transfer.detection.data.mapper import TrainMapper
from transfer.detection.data.transforms import GeometrySpec

pytest.importorskip("detectron2.data", reason="detectron2 is not installed")
from transfer.detection.detectron2_plugin import to_dict  # noqa: E402

pytestmark = pytest.mark.detectron2

TRIANGLE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def write_coco(folder: Path) -> Path:
    """Crowd, no area, short polygons with a good one and alone, none, and an empty image."""
    for part in ("annotations", "train"):
        (folder / part).mkdir(parents=True)
    base: dict[str, Any] = {"image_id": 7, "category_id": 30, "iscrowd": 0, "area": 9.0}
    base |= {"bbox": [1, 2, 8, 8], "segmentation": [TRIANGLE]}
    rle = {"size": [10, 20], "counts": [5, 10, 185]}
    changes = [
        {},
        {"iscrowd": 1, "segmentation": rle},
        {"bbox": [3, 4, 0, 5]},
        {"bbox": [-0.1, 2.37, 20.9, 7.99]},
        {"segmentation": [TRIANGLE, [1, 1, 2, 2]]},
        {"segmentation": [[1, 1, 2, 2]], "category_id": 4},
        {"category_id": 4, "segmentation": [[*TRIANGLE, 1.0], TRIANGLE]},
        {"category_id": 4, "image_id": 9},
    ]
    annotations = [{**base, "id": i, **change} for i, change in enumerate(changes)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10} for i in (9, 7, 8)]
    for image in images:
        Image.new("RGB", (20, 10)).save(folder / "train" / image["file_name"])
    categories = [{"id": 30, "name": "dog"}, {"id": 4, "name": "cat"}]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path = folder / "annotations" / "instances_train.json"
    path.write_text(json.dumps(content))
    return path


def test_coco(root: Path) -> None:
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T
    from detectron2.data.datasets import load_coco_json
    from detectron2.structures import BoxMode

    from transfer.detection.detectron2_plugin import to_dict

    path = write_coco(root / "c")
    theirs = load_coco_json(str(path), str(root / "c/train"), "coco_of_test")
    samples = open_sets(["coco:c:train"]).samples
    for record in theirs:
        for a in record["annotations"]:
            a["bbox"] = BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            a["bbox_mode"] = BoxMode.XYXY_ABS
    assert [to_dict(sample) for sample in samples] == theirs
    mapper = DatasetMapper(
        True, augmentations=[T.ResizeShortestEdge(20)], image_format="RGB", use_instance_mask=True
    )
    ours = TrainMapper(GeometrySpec((20,), 1333, 0.0), "RGB", "polygon", 0)
    for record, sample in zip(theirs, samples):
        instances, found = mapper(record)["instances"], ours(sample, 0)
        boxes = instances.gt_boxes.tensor.numpy()
        np.testing.assert_array_equal(found["boxes"].numpy().reshape(-1, 4), boxes)
        np.testing.assert_array_equal(found["classes"], instances.gt_classes)
        masks = instances.gt_masks.polygons if instances.has("gt_masks") else []
        assert [[p.tolist() for p in m] for m in found["polygons"]] == [
            [p.tolist() for p in m] for m in masks
        ]
    assert len(ours(samples[0], 0)["boxes"]) == 4, "neither crowd, nor short, nor without area"


NUMBERS: dict[str, Any] = {
    "whole": {"bbox": [1, 2, 7, 5], "segmentation": [[1, 1, 9, 1, 9, 9]]},
    "partly outside": {
        "bbox": [-7.0, 3.0, 16.0, 30.0],
        "segmentation": [[-7.0, 1.0, 30.0, 1.0, 9.0, 20.0]],
    },
    "over all edges": {"bbox": [-5.5, -6.25, 33.0, 29.0], "segmentation": [TRIANGLE]},
}  # fmt: skip


def test_lvis(root: Path) -> None:
    """The official names, through its own reader and ours."""
    if importlib.util.find_spec("lvis") is None:
        pytest.skip("lvis is not installed")
    from detectron2.data.datasets import load_lvis_json

    lend_lvis()
    write_lvis(root, "train", lvis_content("train", 8))
    ours = open_sets(["lvis_v1_train"])
    images = f"{root}/coco/"  # Detectron2 appends the image's name as text
    theirs = load_lvis_json(str(root / "lvis/lvis_v1_train.json"), images)
    assert len(theirs) == len(ours.samples) == 8
    for entry, sample in zip(theirs, ours.samples):
        for key in ("file_name", "image_id", "height", "width"):
            assert entry[key] == getattr(sample, key), key
        found = to_dict(sample)["annotations"]
        assert len(entry["annotations"]) == len(found) > 0
        for one, ours_of_it in zip(entry["annotations"], found):
            x, y, width, height = one["bbox"]
            assert ours_of_it["bbox"] == [x, y, x + width, y + height]
            assert one["category_id"] == ours_of_it["category_id"] and not ours_of_it["iscrowd"]
            assert one["segmentation"] == ours_of_it["segmentation"]


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_boxes_after_the_resize(root: Path, numbers: str, flip: float) -> None:
    """Beyond the image they are clipped after it, as there; whole numbers stay exact here."""
    from detectron2.data import DatasetMapper
    from detectron2.data import transforms as T
    from detectron2.data.datasets import load_coco_json

    path = write_coco(root / "c")
    content = json.loads(path.read_text())
    plain = content["annotations"][0] | NUMBERS[numbers] | {"image_id": 7}

    def mapped(entry: dict[str, Any]) -> tuple[Any, Any]:
        path.write_text(json.dumps({**content, "annotations": [entry]}))
        records = load_coco_json(str(path), str(root / "c/train"), f"coco_{numbers}_{flip}")
        steps = [T.ResizeShortestEdge(13), T.RandomFlip(flip)]
        theirs = DatasetMapper(
            True, augmentations=steps, image_format="RGB", use_instance_mask=True
        )([r for r in records if r["image_id"] == 7][0])["instances"]
        sample = [s for s in open_sets(["coco:c:train"]).samples if s.image_id == 7][0]
        ours = TrainMapper(GeometrySpec((13,), 1333, flip), "RGB", "polygon", 0)(sample, 0)
        return theirs, ours

    theirs, ours = mapped(floats := json.loads(json.dumps(plain), parse_int=float) | {"id": 1})
    np.testing.assert_array_equal(ours["boxes"].numpy(), theirs.gt_boxes.tensor.numpy())
    (mine,), (other,) = ours["polygons"], theirs.gt_masks.polygons
    np.testing.assert_array_equal(mine[0], other[0])
    assert floats["bbox"] == plain["bbox"]
    if numbers == "whole":
        theirs, again = mapped(plain)
        np.testing.assert_array_equal(again["boxes"], ours["boxes"])
        np.testing.assert_array_equal(again["polygons"][0], ours["polygons"][0])
        cut = theirs.gt_boxes.tensor.numpy()
        assert (cut != ours["boxes"].numpy()).any() and (cut % 1 == 0).all(), "theirs are cut off"


def test_voc(root: Path) -> None:
    from detectron2.data.datasets import load_voc_instances

    from transfer.detection.detectron2_plugin import to_dict

    folder = root / "v"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    boxes = {"cat": (1, 1, 20, 10), "ant": (9, 2, 8, 9), "bee": (5.5, 3, 17.25, 9)}
    body = "".join(
        f"<object><name>{name}</name><difficult>1</difficult><bndbox><xmin>{b[0]}</xmin><ymin>"
        f"{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in boxes.items()
    )
    size = "<size><width>20</width><height>10</height></size>"
    for stem in ("a", "b"):
        Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{stem}.jpg")
        text = f"<annotation>{size}{body if stem == 'a' else ''}</annotation>"
        (folder / "Annotations" / f"{stem}.xml").write_text(text)
    (folder / "ImageSets/Main/train.txt").write_text("a\nb\n")
    dataset = open_sets(["voc:v:train"])
    theirs = load_voc_instances(str(folder), "train", list(dataset.classes))
    for sample, record in zip(dataset.samples, theirs, strict=True):
        ours = to_dict(sample)
        for annotation in ours["annotations"]:
            assert annotation.pop("iscrowd") == 0  # which theirs leaves out
        assert ours == record
