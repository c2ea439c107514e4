"""Every kind of bad data ends the command before training, with status 2 and one clear line."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tools.train_det import main

TRIANGLE = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0]
OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin>"
    "<ymin>2</ymin><xmax>{x2}</xmax><ymax>9</ymax></bndbox></object>"
)
Run = Callable[..., str]


def write_voc(folder: Path, split: str, stem: str, size: tuple[int, int] = (20, 10)) -> Path:
    """One image of 20 x 10 pixels with a cat and a difficult dog; returns the XML file."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(folder / "JPEGImages" / f"{stem}.jpg")
    objects = OBJECT.format(name="cat", difficult=0, x1=1, x2=10)
    objects += OBJECT.format(name="dog", difficult=1, x1=5, x2=20)
    xml = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}"
    (folder / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{xml}</annotation>")
    (folder / "ImageSets/Main" / f"{split}.txt").write_text(f"{stem}\n")
    return folder / "Annotations" / f"{stem}.xml"


def coco_content() -> dict[str, Any]:
    """Two images of 20 x 10 pixels; a cat in each and a crowd of dogs."""
    common = {"bbox": [1, 1, 8, 8], "area": 32.0, "segmentation": [TRIANGLE]}
    crowd = {"size": [10, 20], "counts": [5, 10, 185]}
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 20, "height": 10} for i in (1, 2)
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {**common, "id": 11, "image_id": 1, "category_id": 3, "iscrowd": 0},
            {**common, "id": 12, "image_id": 2, "category_id": 3, "iscrowd": 0},
            {**common, "id": 13, "image_id": 2, "category_id": 7, "iscrowd": 1,
             "segmentation": crowd},
        ],
    }  # fmt: skip


def write_coco(folder: Path, split: str, content: dict[str, Any]) -> None:
    """The JSON file and its images."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir(exist_ok=True)
    for name in ("1.jpg", "2.jpg"):
        Image.new("RGB", (20, 10)).save(folder / split / name)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command on config, overrides; returns its one line of error."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))

    def command(config: str, *words: str, weights: str = "random") -> str:
        options = ["--weights", weights, "--output", str(tmp_path / "run")]
        status = main(["--config", config, "--engine", "torchvision", *options, *words])
        text = capsys.readouterr().err
        assert status == 2 and text.startswith("error: ") and text.count("\n") == 1, text
        assert not (tmp_path / "run" / "trial_0").exists()
        return text

    return command


VOC = ("digits_voc.yaml", "DATASETS.TRAIN", "voc:v:train", "DATASETS.TEST", "voc:v:test")
COCO = ("digits_coco.yaml", "DATASETS.TRAIN", "coco:c:train", "DATASETS.TEST", "coco:c:test")


@pytest.fixture
def xml(tmp_path: Path) -> Path:
    """A sound VOC set; returns the XML file of its test image."""
    write_voc(tmp_path / "v", "train", "a")
    return write_voc(tmp_path / "v", "test", "b")


def test_voc_layout(tmp_path: Path, run: Run) -> None:
    write_voc(tmp_path / "VOC2007", "trainval", "a")
    write_voc(tmp_path / "VOC2012", "trainval", "b")
    for name in ("VOC2007", "VOC2012"):
        path = tmp_path / name / "Annotations"
        for file in path.glob("*.xml"):
            file.write_text(file.read_text().replace("2</ymin>", "1</ymin>"))
    text = run("voc_mscn.yaml")
    assert f"{tmp_path}/VOC2007/ImageSets/Main/test.txt is missing; expected" in text
    assert "JPEGImages/*.jpg, Annotations/*.xml, ImageSets/Main/test.txt" in text
    assert "(VOC2007 must hold trainval and test, merged)" in text


def test_coco_layout(tmp_path: Path, run: Run) -> None:
    write_coco(tmp_path / "c", "train", coco_content())
    text = run(*COCO)
    assert "instances_test.json is missing (did you mean 'instances_train'?); expected" in text
    assert "c/{annotations/instances_test.json, test/*.jpg}" in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<name>cat", "<name>catt", "'catt' in b.xml"),
        ("<width>20", "<width>21", "b.jpg has 20 x 10 pixels, not 21 x 10"),
        ("<xmin>5", "<xmin>25", "(1: b.xml: 'dog' (24, 1, 20, 9) in 20 x 10)"),
        ("<ymax>9", "<ymax>1.5.2", "(2: b.xml: 'cat' (1, 2, 10, 1.5.2), b.xml: 'dog'"),
        ("</annotation>", "", "not valid XML (1: b.xml ("),
        ("object>", "part>", "no image of the test set voc:v:test has an object to find"),
    ],
)
def test_voc_annotation(xml: Path, run: Run, old: str, new: str, words: str) -> None:
    # Classes by hand: those of own data are read from all annotations, so none is unknown.
    classes = ("TRANSFER.CLASSES", "('cat','dog')")
    xml.write_text(xml.read_text().replace(old, new))
    assert words in run(*VOC, *classes)


def test_voc_images(tmp_path: Path, xml: Path, run: Run) -> None:
    (tmp_path / "v/JPEGImages/b.jpg").unlink()
    assert f"images are missing (1: {tmp_path}/v/JPEGImages/b.jpg)" in run(*VOC)
    (tmp_path / "v/ImageSets/Main/test.txt").write_text("a\na\n")
    assert "test.txt: images are listed more than once (1: a)" in run(*VOC)


def change(content: dict[str, Any], part: str, index: int, **values: Any) -> None:
    content[part][index].update(values)


@pytest.mark.parametrize(
    ("part", "index", "values", "words"),
    [
        ("images", 1, {"width": 30}, "2.jpg has 20 x 10 pixels, not 30 x 10"),
        ("images", 1, {"file_name": "9.jpg"}, "9.jpg is missing"),
        ("images", 1, {"id": 1}, "the id 1 occurs twice in 'images'"),
        ("annotations", 1, {"id": 11}, "the id 11 occurs twice in 'annotations'"),
        ("annotations", 1, {"image_id": 5}, "annotation 12 has the unknown image 5"),
        ("annotations", 1, {"category_id": 5}, "annotation 12 has the unknown category 5"),
        ("annotations", 1, {"bbox": [30, 1, 5, 8]}, "annotation 12 (30, 1, 35, 9) in 20 x 10"),
        ("annotations", 1, {"area": "big"}, '(1: annotation 12 (area "big"))'),
        ("categories", 1, {"id": 3}, "the id 3 occurs twice in 'categories'"),
        ("categories", 1, {"name": "cat"}, "lists the name 'cat' twice"),
        (
            "categories",
            0,
            {"name": "catt"},
            "the category 'catt', which is not one of the 2 classes",
        ),
    ],
)
def test_coco_file(
    tmp_path: Path, run: Run, part: str, index: int, values: dict, words: str
) -> None:
    content = coco_content()
    write_coco(tmp_path / "c", "train", content)
    change(content, part, index, **values)
    if "file_name" not in values and part == "images":
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    write_coco(tmp_path / "c", "test", content)
    assert words in run(*COCO)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (0, "no image of the test set coco:c:test has an object to find: it has no objects"),
        (1, "has an object to find: all objects are crowd regions, 'iscrowd' 1 (1)"),
    ],
)
def test_a_test_set_without_an_object_to_find(
    tmp_path: Path, run: Run, kept: int, words: str
) -> None:
    content = coco_content()
    write_coco(tmp_path / "c", "train", content)
    content["annotations"] = content["annotations"][-1:] * kept
    write_coco(tmp_path / "c", "test", content)
    assert words in run(*COCO)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("counts", [[5, 10], [1000, 20, 1064, 20], "0"])
def test_run_lengths_that_do_not_fill_the_image(
    tmp_path: Path, run: Run, split: str, counts: Any
) -> None:
    for name in ("train", "test"):
        content = coco_content()
        if name == split:
            change(content, "annotations", 2, segmentation={"size": [10, 20], "counts": counts})
        write_coco(tmp_path / "c", name, content)
    text = run(*COCO)
    assert f"instances_{split}.json: run lengths do not fill their image" in text
    assert "(1: annotation 13 (sum " in text and "image 10 x 20 = 200))" in text


def test_a_sweep_over_several_files(tmp_path: Path, run: Run) -> None:
    for split in ("train", "test", "more"):
        write_coco(tmp_path / "c", split, coco_content())
    words = (
        "DATASETS.TRAIN",
        "('coco:c:train', 'coco:c:more')",
        "TRANSFER.LR_SWEEP.RATES",
        "(0.1,)",
    )
    text = run(*COCO, *words, "TRANSFER.LR_SWEEP.MAX_ITER", "1")
    assert "coco:c:train+coco:c:more has several COCO files, but TRANSFER.LR_SWEEP scores" in text


def test_a_test_mask_that_cannot_be_scored(tmp_path: Path, run: Run) -> None:
    content = coco_content()
    write_coco(tmp_path / "c", "train", content)
    change(content, "annotations", 0, segmentation=[])
    write_coco(tmp_path / "c", "test", content)
    assert "objects have no mask, or only polygons with fewer than 3 points" in run(*COCO)


def test_nothing_to_train_on(tmp_path: Path, run: Run) -> None:
    content = coco_content()
    write_coco(tmp_path / "c", "test", content)
    write_coco(tmp_path / "c", "train", {**content, "annotations": content["annotations"][2:]})
    assert "no image of coco:c:train has an object to train on" in run(*COCO)


def test_objects_without_masks(tmp_path: Path, run: Run) -> None:
    content = coco_content()
    write_coco(tmp_path / "c", "test", content)
    change(content, "annotations", 1, segmentation=[])
    write_coco(tmp_path / "c", "train", content)
    text = run(*COCO)
    assert "coco:c:train: objects have no mask (1: 2.jpg); annotate or remove them" in text


def test_masks_in_another_form(tmp_path: Path, run: Run) -> None:
    content = coco_content()
    change(content, "annotations", 0, segmentation={"size": [10, 20], "counts": [5, 10, 185]})
    for split in ("train", "test"):
        write_coco(tmp_path / "c", split, content)
    assert "set INPUT.MASK_FORMAT bitmask" in run(*COCO)


def test_number_of_classes(tmp_path: Path, run: Run) -> None:
    for split in ("train2017", "val2017"):
        write_coco(tmp_path / "coco", split, coco_content())
    text = run("coco_mscn.yaml")
    assert "MODEL.ROI_HEADS.NUM_CLASSES is 80, but coco_2017_train has 2 classes" in text


def test_weights_of_another_depth(tmp_path: Path, xml: Path, run: Run) -> None:
    import torch
    from torchvision.models import resnet18

    path = str(tmp_path / "r18.pth")
    torch.save(resnet18().state_dict(), path)
    sets = ("DATASETS.TRAIN", "voc:v:train", "DATASETS.TEST", "voc:v:test")
    text = run("groceries_c4.yaml", *sets, weights=path)
    assert "r18.pth is a resnet18, but the config builds a resnet50" in text
    assert "MODEL.RESNETS.DEPTH" in text


def test_a_detector_with_other_classes(tmp_path: Path, xml: Path, run: Run) -> None:
    from pretrain.data.preprocess import Preprocess
    from transfer.detection.config import load_detection_config
    from transfer.detection.torchvision_engine.engine import make_detector
    from transfer.training.files import write_model

    detector = make_detector(load_detection_config("digits_voc.yaml"), Preprocess())
    facts = {"preprocess": Preprocess(), "architecture": {}, "seconds": 1.0}
    path = write_model(tmp_path, detector.state_dict(), iteration=1, **facts)
    text = run(*VOC[:1], "--eval-only", *VOC[1:], weights=str(path))
    assert "model_final.pth does not fit digits_voc.yaml" in text
    assert "a different depth or number of classes" in text


def test_an_evaluator_that_is_absent(tmp_path: Path, run: Run) -> None:
    import importlib.util

    if importlib.util.find_spec("faster_coco_eval"):
        pytest.skip("faster_coco_eval is installed")
    for split in ("train", "test"):
        write_coco(tmp_path / "c", split, coco_content())
    text = run(*COCO, "TRANSFER.COCO_EVALUATOR", "faster_coco_eval")
    assert "pip install faster-coco-eval" in text


def test_what_is_odd_but_legal_is_counted_and_trained(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Crowd, a box without area, an object twice, and a polygon of two points, through two steps
    of training."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    content = coco_content()
    more = {**content["annotations"][0], "iscrowd": 0}
    content["annotations"] += [
        {**more, "id": 14, "bbox": [3, 3, 0, 4]},
        {**more, "id": 16},
        {**more, "id": 17},
        {**more, "id": 15, "segmentation": [[1, 1, 2, 2]]},
    ]
    write_coco(tmp_path / "c", "train", content)
    del content["annotations"][-1]  # a test set must have its masks
    write_coco(tmp_path / "c", "test", content)
    options = ["--weights", "random", "--engine", "torchvision", "--output", str(tmp_path / "run")]
    tiny = (
        "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN 64 "
        "INPUT.MIN_SIZE_TEST 64 MODEL.RPN.POST_NMS_TOPK_TEST 10 TRANSFER.DRAW_DETECTIONS 0"
    ).split()
    with caplog.at_level(logging.WARNING):
        assert main(["--config", COCO[0], *options, *COCO[1:], *tiny]) == 0
    words = [r.getMessage() for r in caplog.records if "instances_train.json" in r.getMessage()]
    assert "cannot be found in a test set (1: annotation 14)" in words[0]
    assert "polygons with fewer than 3 points" in words[0]
    for split in ("train", "test"):
        assert f"coco:c:{split}: objects have the image, class and box of an earlier" in caplog.text
    log = capsys.readouterr().err
    said = (
        "training data coco:c:train: 2 images, 6 objects of 2 classes (1 crowd region)\n  cat 5\n"
    )
    assert log.count(said) == 1 and log.count("test data coco:c:test: 2 images, ") == 1
