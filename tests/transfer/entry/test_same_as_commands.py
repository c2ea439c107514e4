"""The Python entry gives the numbers that the commands record."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import transfer
from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from tools.train_det import main as detect

SHORT = (
    "SOLVER.MAX_ITER 2 SOLVER.STEPS (1,) SOLVER.WARMUP_ITERS 1 SOLVER.IMS_PER_BATCH 2 "
    "TRANSFER.LIMIT_IMAGES 0 DATALOADER.NUM_WORKERS 0 TRANSFER.REPLICATES 0"
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("entry") / "digits"
    make_digits(folder, classification=(60, 10, 20), scenes=(14, 2, 4))
    return folder


@pytest.fixture(autouse=True)
def root(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))


def test_knn_is_the_protocols(digits: Path, tmp_path: Path) -> None:
    own = {"PROTOCOL.K": (5, 20), "QUALITY.IMAGES": 0, "BACKBONE.NAME": "tiny_resnet"}
    records = transfer.run_protocol("knn_digits.yaml", "random", tmp_path / "knn", overrides=own)
    weights = transfer.read_weights("random", backbone="tiny_resnet")
    sides = {"size": 32, "resize": 32}
    train = transfer.extract_features(weights, "folder:digits_cls:train", **sides)
    test = transfer.extract_features(weights, digits / "digits_cls" / "test", **sides)
    recorded = records.files[0].record["metrics"]
    for name, value in transfer.knn_score(train, test, k=(5, 20)).items():
        assert recorded[name] == value
    images = [Image.open(path) for path in test.names]
    again = transfer.extract_features(weights, images, **sides)
    assert again.values.equal(test.values) and again.labels.tolist() == [-1] * len(test)
    with pytest.raises(InputError, match="the test images have no classes"):
        transfer.knn_score(train, again)
    with pytest.raises(InputError, match="k = 61 neighbours cannot come from a bank of 60"):
        transfer.knn_score(train, test, k=61)
    with pytest.raises(InputError, match="temperature 0 must be"):
        transfer.knn_score(train, test, temperature=0)


@pytest.mark.parametrize("config", ["digits_voc.yaml", "digits_coco.yaml"])
def test_a_trained_detectors_scores_are_recorded_ones(config: str, tmp_path: Path) -> None:
    layout = config.removeprefix("digits_").removesuffix(".yaml")
    dataset = f"{layout}:digits_{layout}:test"
    words = ["--config", config, "--weights", "random", "--output", str(tmp_path / "det")]
    assert detect([*words, *SHORT.split()]) == 0
    trial = tmp_path / "det" / "trial_0"
    recorded = json.loads((trial / "record.json").read_text())["metrics"]
    detector = transfer.build_detector(config, trial / "model_final.pth")
    assert set(detector.classes) <= set("0123456789") and len(detector.classes) > 8
    found = detector.predict(dataset)
    scores = transfer.evaluate(found, dataset, classes=detector.classes)
    kept = {name: None if np.isnan(v) else v for name, v in scores.metrics.items()}
    assert kept == recorded
    written = trial / "inference" / "coco_instances_results.json"
    by_file = transfer.evaluate(written, dataset, classes=detector.classes)
    assert list(by_file.metrics) == list(scores.metrics)
    np.testing.assert_allclose(list(by_file.metrics.values()), list(scores.metrics.values()))
    path = _files(dataset)[0]
    (alone,) = detector.predict([Image.open(path)])
    np.testing.assert_array_equal(alone.boxes, found[0].boxes)
    assert detector.draw(path, alone, side=200).size == (200, 200)
    # a config of users' own data, as own_fpn.yaml is, names none: neither is any needed to predict
    no_data = {"DATASETS.TRAIN": (), "DATASETS.TEST": ()}
    bare = transfer.build_detector(config, trial / "model_final.pth", overrides=no_data)
    assert bare.classes == detector.classes
    np.testing.assert_array_equal(bare.predict([Image.open(path)])[0].boxes, alone.boxes)
    with pytest.raises(InputError, match="DATASETS.TEST .* must be exactly one data set"):
        two = {**no_data, "DATASETS.TEST": (dataset, dataset)}
        transfer.build_detector(config, trial / "model_final.pth", overrides=two)


def _files(dataset: str) -> list[str]:
    from transfer.datasets.registry import open_sets

    return [sample.file_name for sample in open_sets([dataset]).samples]


def test_predictions_of_other_images_or_classes_are_refused(digits: Path) -> None:
    detector = transfer.build_detector("digits_voc.yaml", "random", classes="0123456789")
    row = {"image_id": "nowhere", "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    with pytest.raises(InputError, match="names the image 'nowhere', which voc:digits_voc:test"):
        transfer.evaluate([row], "voc:digits_voc:test")
    with pytest.raises(InputError, match="result 0 has the category_id 99"):
        transfer.evaluate([{**row, "category_id": 99}], "voc:digits_voc:test")
    with pytest.raises(InputError, match="result 0 lacks one of image_id"):
        transfer.evaluate([{"image_id": 1}], "voc:digits_voc:test")
    found = detector.predict("voc:digits_voc:test")
    found = [
        type(found[0])(one.image_id, one.boxes[:1], one.scores[:1], one.classes[:1] * 0 + 12)
        for one in found
    ]
    with pytest.raises(InputError, match="class number 12, but voc:digits_voc:test has .* classes"):
        transfer.evaluate(found, "voc:digits_voc:test")
    with pytest.raises(InputError, match="results.json cannot be read as predictions"):
        transfer.evaluate(digits / "results.json", "voc:digits_voc:test")


def test_a_detector_from_weights_leaves_the_global_generator_alone() -> None:
    import torch

    weights = transfer.read_weights("random", backbone="tiny_resnet")
    before = torch.get_rng_state()
    one = transfer.build_detector("digits_voc.yaml", weights, seed=3)
    other = transfer.build_detector("digits_voc.yaml", weights, seed=3)
    assert torch.get_rng_state().equal(before)
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values())
    assert all(a.equal(b) for a, b in pairs)
    with pytest.raises(InputError, match="unknown logger 'wandv'.*TRANSFER.LOGGER"):
        transfer.build_detector("digits_voc.yaml", weights, overrides={"TRANSFER.LOGGER": "wandv"})
    with pytest.raises(InputError, match="is a resnet18, but the config builds a tiny_resnet"):
        transfer.build_detector(
            "digits_voc.yaml", transfer.read_weights("random", backbone="resnet18")
        )


def test_converting_to_a_folder_names_the_file(tmp_path: Path) -> None:
    import torch
    import torchvision

    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "mine.pth")
    report = transfer.convert(tmp_path / "mine.pth", tmp_path / "out", suffix=".safetensors")
    assert report.written == str(tmp_path / "out" / "mine.safetensors")
    assert "read back equal" in str(report)
    checked = transfer.convert(tmp_path / "mine.pth")
    assert checked.written is None and set(checked.proofs) >= {"detectron2", "torchvision"}
    assert "Tensor" not in repr(report) and len(repr(report)) < 20_000


class Frame(list):
    """The part of a pandas table that the records need."""

    def __init__(self, rows: list[dict], columns: list[str]) -> None:
        super().__init__(rows)
        self.columns = columns

    def sort_values(self, keys: list[str], ignore_index: bool) -> Frame:
        return Frame(sorted(self, key=lambda row: [row[key] for key in keys]), self.columns)


def test_records_as_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"PROTOCOL.K": (5,), "QUALITY.IMAGES": 0, "BACKBONE.NAME": "tiny_resnet"}
    records = transfer.run_protocol(
        "knn_digits.yaml", "random", tmp_path / "knn", trials=2, name="mine", overrides=own
    )
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
    frame = records.frame()
    assert [(row["checkpoint"], row["trial"]) for row in frame] == [("mine", 0), ("mine", 1)]
    assert frame.columns[:3] == ["checkpoint", "method", "backbone"]
    assert "knn5_top1" in frame.columns and frame.columns.index("knn5_top1") > frame.columns.index(
        "path"
    )
    assert frame[0]["knn5_top1"] == records.files[0].record["metrics"]["knn5_top1"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="needs pandas.*; python -m pip install pandas"):
        records.frame()
