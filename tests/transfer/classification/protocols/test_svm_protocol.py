"""VOC's objects as labels, and the SVM protocols from a folder of photographs to a record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from tools.train_cls import main
from transfer.checkpoints.read import random_weights
from transfer.classification import splits as cls_data
from transfer.classification.crops import ImageTransform
from transfer.classification.defaults import ROLES, get_defaults
from transfer.classification.features.extract import _content_key, extract_features
from transfer.classification.splits import open_object_splits
from transfer.datasets.samples import DetectionSet, Instance, Sample

SMALL = (
    "PROTOCOL.RESIZE 64 PROTOCOL.IMAGE_SIZE 64 SVM.WINDOW 6 SVM.COSTS (0.1,1.0) SVM.FOLDS 2 "
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATASETS.TRAIN voc:digits_voc:train "
    "DATASETS.TEST voc:digits_voc:test"
).split()


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("svm") / "digits"
    make_digits(root, seed=1, classification=(0, 0, 0), scenes=(60, 0, 60))
    return root


@pytest.fixture
def digits(digits_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits_root))
    return digits_root


def test_objects_as_labels() -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    clear, hard = Instance(box, 0), Instance(box, 0, difficult=True)
    crowd = Instance(box, 1, crowd=True)
    samples = [
        Sample("a.jpg", "a", 2, 2, (clear, hard)),
        Sample("b.jpg", "b", 2, 2, (hard, crowd)),
        Sample("c.jpg", "c", 2, 2, ()),
        Sample("d.jpg", "d", 2, 2, (crowd, Instance(box, 1))),
    ]
    split = cls_data._object_labels(DetectionSet("x", "voc", tuple(samples), ("p", "q"), (1, 2)))
    assert split.labels.tolist() == [[1, 0], [-1, -1], [0, 0], [0, 1]]
    assert split.images.name(2) == "c.jpg" and len(split) == 4


def test_classes_without_a_test_image(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box = (0.0, 0.0, 1.0, 1.0)
    shown = {"train": ([0, 1], [2]), "test": ([2], [0]), "hard": ([], [])}

    def opened(names: list[str], like: DetectionSet | None = None) -> DetectionSet:
        samples = [
            Sample(f"{i}.jpg", str(i), 2, 2, tuple(Instance(box, c) for c in there))
            for i, there in enumerate(shown[names[0]])
        ]
        return DetectionSet(names[0], "voc", tuple(samples), ("p", "q", "r"), (1, 2, 3))

    monkeypatch.setattr(cls_data, "open_sets", opened)
    train, test = open_object_splits("train", "test")
    assert train.classes == test.classes == ("p", "r")
    assert train.labels.tolist() == [[1, 0], [0, 1]] and test.labels.tolist() == [[0, 1], [1, 0]]
    assert "test has no q: left out of the mean" in caplog.text
    with pytest.raises(InputError, match="hard has no objects of the classes of train"):
        open_object_splits("train", "hard")


def test_photographs_with_a_class_that_is_not_tested(
    real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(real_data("voc20_coco")))
    command = ["--config", "svm_voc07.yaml", "--weights", "random", "--output", str(tmp_path)]
    sets = "DATASETS.TRAIN voc:voc20_coco:trainval DATASETS.TEST voc:voc20_coco:test".split()
    more = [*sets, "SVM.WINDOW", "0", "SVM.FOLDS", "3", "QUALITY.IMAGES", "0"]
    assert main([*command, *SMALL, *more]) == 0
    record = json.loads((tmp_path / "trial_0" / "record.json").read_text())
    per_class = record["per_class"]["mAP"]
    assert len(per_class) == 19 and "cow" not in per_class
    assert record["metrics"]["mAP"] == pytest.approx(sum(per_class.values()) / 19)
    assert record["views_seen"] == 306 + 95


def test_the_whole_image_is_squashed() -> None:
    image = Image.new("RGB", (40, 20))
    image.putpixel((0, 0), (255, 0, 0))
    pixels = ImageTransform(20, 16, squash=True).apply(image)
    expected = image.resize((16, 16), Image.Resampling.BILINEAR)  # its short side is 20 already
    assert (
        pixels.permute(1, 2, 0).tolist()
        == torch.tensor(
            [[expected.getpixel((x, y)) for x in range(16)] for y in range(16)]
        ).tolist()
    )


def test_windows_of_the_last_map(digits: Path) -> None:
    split, _ = open_object_splits("voc:digits_voc:train", "voc:digits_voc:test")
    weights, transform = random_weights("tiny_resnet", 0), ImageTransform(64, 64, squash=True)
    options = {"device": torch.device("cpu"), "batch_size": 32}
    grid = extract_features(weights, split, transform, window=6, **options).values
    assert grid.shape == (60, 128 * 3 * 3)  # the map is 8 x 8
    whole = extract_features(weights, split, transform, window=8, **options).values
    mean = extract_features(weights, split, transform, **options).values
    assert torch.allclose(whole, mean, atol=1e-5)
    with pytest.raises(InputError, match="WINDOW 9 is larger than the last map .8, 8."):
        extract_features(weights, split, transform, window=9, **options)


def test_the_cache_tells_architectures_windows_and_formats_apart(digits: Path) -> None:
    split, _ = open_object_splits("voc:digits_voc:train", "voc:digits_voc:test")
    weights, transform = random_weights("tiny_resnet", 0), ImageTransform(64, 64)
    formats = {"precision": "fp32", "storage": "fp32"}
    other = random_weights("tiny_resnet", 0)
    object.__setattr__(other, "architecture", {"padding": "same"})
    keys = {
        _content_key(weights, split, transform, window=0, **formats),
        _content_key(weights, split, transform, window=6, **formats),
        _content_key(weights, split, ImageTransform(64, 64, squash=True), window=0, **formats),
        _content_key(other, split, transform, window=0, **formats),
        _content_key(weights, split, transform, window=0, precision="bf16", storage="fp32"),
        _content_key(weights, split, transform, window=0, precision="fp32", storage="fp16"),
    }
    assert len(keys) == 6


def test_from_photographs_to_a_record(digits: Path, tmp_path: Path) -> None:
    command = ["--config", "svm_voc07.yaml", "--weights", "random", "--output", str(tmp_path)]
    assert main([*command, *SMALL]) == 0
    record = json.loads((tmp_path / "trial_0" / "record.json").read_text())
    assert record["task"] == "svm" and 0 < record["metrics"]["mAP"] <= 100
    per_class = record["per_class"]["mAP"]
    assert len(per_class) == 10
    assert record["metrics"]["mAP"] == pytest.approx(sum(per_class.values()) / 10)
    chosen = json.loads((tmp_path / "trial_0" / "selection.json").read_text())["cost"]
    assert set(chosen.values()) <= {0.1, 1.0}


def test_low_shot_trials_draw_anew(digits: Path, tmp_path: Path) -> None:
    command = ["--config", "svm_voc07_lowshot.yaml", "--weights", "random", "--trials", "2"]
    words = [*command, "--output", str(tmp_path), *SMALL, "SVM.SHOTS", "(1, 4)"]
    assert main(words) == 0
    records = [json.loads((tmp_path / f"trial_{t}" / "record.json").read_text()) for t in (0, 1)]
    accuracies = {name for name in records[0]["metrics"] if not name.startswith("features/")}
    assert accuracies == {"shots1_mAP", "shots4_mAP"}
    assert records[0]["metrics"] != records[1]["metrics"]


def test_bad_input(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def line(config: str, *words: str) -> str:
        options = ["--config", config, "--weights", "random", "--output", str(tmp_path / "x")]
        assert main([*options, *SMALL, *words]) == 2
        return capsys.readouterr().err

    assert "fewer than the 59 folds of SVM.FOLDS" in line("svm_voc07.yaml", "SVM.FOLDS", "59")
    for key in ("DATASETS.LIMIT_PER_CLASS", "DATASETS.TEST_LIMIT_PER_CLASS"):
        said = line("svm_voc07.yaml", key, "2")
        assert f"{key} 2 is for images with one label each" in said
    assert "SVM.COSTS (0.0,)" in line("svm_voc07.yaml", "SVM.COSTS", "(0.0,)")
    assert "SVM.SHOTS 96" in line("svm_voc07_lowshot.yaml", "SVM.SHOTS", "(96,)")
    assert "is not a detection data set; give voc:" in line(
        "svm_voc07.yaml", "DATASETS.TRAIN", "cifar10:train"
    )


def test_other_protocols_keep_their_identity() -> None:
    cfg = get_defaults()
    assert not ROLES.belongs("SVM.COSTS", cfg)
    cfg.PROTOCOL.NAME = "svm"
    assert ROLES.belongs("SVM.COSTS", cfg)
