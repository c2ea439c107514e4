"""Classes are matched by name: those in a model's file, and those of the data that it scores."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import random_weights
from transfer.detection.config import load_detection_config
from transfer.detection.task import DetectionTask
from transfer.detection.weights.scored_detector import classes_to_score, order_of
from transfer.training.files import read_model, write_model
from transfer.training.state import TrainingState
from transfer.trials.command import evaluate_request
from transfer.trials.loop import run_trials
from transfer.trials.task import Request

TASK = DetectionTask()
TINY = (
    "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.STEPS () SOLVER.WARMUP_ITERS 1 "
    "DATALOADER.NUM_WORKERS 0 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 10 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 "
    "TRANSFER.DRAW_DETECTIONS 0 TRANSFER.REPLICATES 0"
).split()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits_root: Path) -> Path:
    """A folder with a model of two classes, its data, and the same data with other names."""
    root = tmp_path_factory.mktemp("names")
    content = json.loads((digits_root / "digits_coco/annotations/instances_train.json").read_text())
    test = json.loads((digits_root / "digits_coco/annotations/instances_test.json").read_text())
    for name, categories in {
        "base": {1: "even", 2: "odd"},
        "swapped": {1: "odd", 2: "even"},
        "other": {1: "even", 2: "queer"},
        "fewer": {1: "odd"},
    }.items():
        folder = root / "data" / name
        (folder / "annotations").mkdir(parents=True)
        for split, whole in (("train", content), ("test", test)):
            (folder / split).symlink_to(digits_root / "digits_coco" / split)
            text = json.dumps(renamed(whole, categories))
            (folder / "annotations" / f"instances_{split}.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root / "data"))
        run_trials(
            TASK, TASK.prepare(request(root, "base", "base", weights="random", output="run"))
        )
    return root


def renamed(content: dict[str, Any], categories: dict[int, str]) -> dict[str, Any]:
    """Digits become even and odd, under the ids that `categories` gives these names."""
    ids = {name: key for key, name in categories.items()}
    digit = {c["id"]: int(c["name"]) for c in content["categories"]}
    names = [("even", "odd")[digit[a["category_id"]] % 2] for a in content["annotations"]]
    kept = [
        {**annotation, "category_id": ids.get(name, ids.get("queer"))}
        for annotation, name in zip(content["annotations"], names)
        if name in ids or "queer" in ids
    ]
    listed = [{"id": key, "name": name} for key, name in categories.items()]
    return {**content, "annotations": kept, "categories": listed}


def request(
    root: Path, train: str, test: str, *words: str, weights: str = "", output: str = "eval"
) -> Request:
    sets = ("DATASETS.TRAIN", f"coco:{train}:train", "DATASETS.TEST", f"coco:{test}:test")
    return Request(
        "digits_coco.yaml",
        weights or str(root / "run/trial_0/model_final.pth"),
        str(root / output),
        engine="torchvision",
        overrides=(*TINY, "MODEL.MASK_ON", "False", *sets, *words),
    )


@pytest.fixture
def data(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(trained / "data"))
    return trained


def results(root: Path) -> list[dict[str, Any]]:
    return json.loads((root / "eval/inference/coco_instances_results.json").read_text())


def test_names_are_in_the_file(data: Path) -> None:
    path = data / "run/trial_0/model_final.pth"
    assert read_model(path).classes == ("even", "odd")
    assert set(torch.load(path, weights_only=True)) == {"model", "iteration", "transfer"}


def test_another_order_is_mapped_and_the_training_set_is_not_needed(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    TASK.open_trained(request(data, "base", "base"))
    assert "mapped by name" not in caplog.text
    TASK.open_trained(request(data, "gone", "swapped"))
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert "(odd, even) are in a different order than those of" in line and "mapped by name" in line
    evaluate_request(TASK, request(data, "base", "base"))
    base = results(data)
    assert {entry["category_id"] for entry in base} == {1, 2}
    evaluate_request(TASK, request(data, "gone", "swapped"))
    other = {1: 2, 2: 1}  # the ids of the same names
    assert results(data) == [{**b, "category_id": other[b["category_id"]]} for b in base]


def test_other_names_are_refused_with_both_lists(data: Path) -> None:
    with pytest.raises(InputError, match=r"\(even, odd\) are not those of .* \(even, queer\)"):
        TASK.open_trained(request(data, "gone", "other"))
    words = ("TRANSFER.CLASSES", "('even',)")
    with pytest.raises(InputError, match=r"\(even, odd\) .* TRANSFER.CLASSES \(even\)"):
        TASK.open_trained(request(data, "base", "base", *words))


def test_a_test_set_may_lack_classes(data: Path) -> None:
    cfg, test_set = TASK.open_trained(request(data, "gone", "fewer"))
    assert test_set.classes == ("even", "odd") and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert {i.category for s in test_set.samples for i in s.instances} == {1}


def test_a_voc_folder_has_no_order_and_may_hold_more_classes(
    data: Path, tmp_path: Path, digits_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Other splits of the folder may use classes that the model does not have."""
    source, folder = digits_root / "digits_voc", tmp_path / "v"
    shutil.copytree(source, folder)
    split = (folder / "ImageSets/Main/test.txt").read_text().split()
    used: set[str] = set()
    for file in (folder / "Annotations").glob("*.xml"):
        names = re.findall("<name>(.*)</name>", file.read_text())
        used.update(names if file.stem in split else ())
    theirs = tuple(sorted(used, reverse=True))
    state = torch.load(data / "run/trial_0/model_final.pth", weights_only=True)["model"]
    facts = {"preprocess": Preprocess(), "architecture": {}, "seconds": 1.0}
    path = write_model(tmp_path, state, iteration=1, classes=theirs, **facts)
    name = f"voc:{folder}:test"
    cfg = load_detection_config("digits_voc.yaml", ("DATASETS.TEST", name))
    assert classes_to_score(cfg, OpenedWeights(path)) == theirs
    assert "different order" not in caplog.text
    path = write_model(tmp_path, state, iteration=1, classes=theirs[1:], **facts)
    with pytest.raises(InputError, match=f"are not those of voc:.*{theirs[0]}"):
        classes_to_score(cfg, OpenedWeights(path))


def test_a_file_without_names(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Like Detectron2's file: names are TRANSFER.CLASSES, or the training or test set's."""
    model = tmp_path / "model_final.pth"
    content = torch.load(data / "run/trial_0/model_final.pth", weights_only=True)
    torch.save({"model": content["model"]}, model)

    def classes(train: str, *words: str) -> tuple[str, ...]:
        caplog.clear()
        return TASK.open_trained(request(data, train, "base", *words, weights=str(model)))[
            1
        ].classes

    assert classes("swapped") == ("odd", "even")
    text = " ".join(record.getMessage() for record in caplog.records)
    assert f"{model} does not name its classes" in text and "order: odd, even" in text
    assert (
        classes("gone") == ("even", "odd") and "cannot be found, so the classes are" in caplog.text
    )
    assert classes("gone", "TRANSFER.CLASSES", "('odd', 'even')") == ("odd", "even")
    (tmp_path / "config.yaml").write_text("MODEL: {}\nTRANSFER: {CLASSES: [odd, even]}")
    assert classes("gone") == ("odd", "even"), "the config next to the model names them"
    assert "does not name its classes" not in caplog.text


def test_order_of() -> None:
    assert order_of("m", "abc", "d", "cab", complete=True) == ("a", "b", "c")
    assert order_of("m", "abc", "d", "ca", complete=False) == ("a", "b", "c")
    with pytest.raises(InputError):
        order_of("m", "abc", "d", "ca", complete=True)


def test_a_periodic_checkpoint_names_its_classes(data: Path, tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.roi_heads = torch.nn.Linear(1, 1)
    state = TrainingState(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        tmp_path,
        weights=random_weights("tiny_resnet", seed=0),
        max_iter=9,
        classes=("a", "b"),
    )
    state.save(4)
    assert read_model(tmp_path / "model_0000004.pth").classes == ("a", "b")
