"""Which data a run of each task uses, also if its trials draw a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.digits.dataset import make_digits
from transfer.classification.task import ClassificationTask
from transfer.datasets.registry import open_sets
from transfer.detection.task import DetectionTask
from transfer.doctor.data import check_shared
from transfer.doctor.rows import WARN, Rows
from transfer.trials.data import read_data
from transfer.trials.task import Request


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "digits"
    make_digits(folder, classification=(60, 20, 20), scenes=(40, 4, 4))
    return folder


def request(folder: Path, config: str, *overrides: str, trials: int = 1) -> Request:
    return Request(config, "random", str(folder / "run"), trials=trials, overrides=overrides)


def test_images_that_trials_draw_are_of_the_whole_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    task, whole = ClassificationTask(), ("DATASETS.TRAIN", "folder:digits_cls:train")
    shots = (*whole, "DATASETS.TEST", "folder:digits_cls:test", "KSHOT.SHOTS", "(1,)")
    one, three = (
        task.open_data(request(tmp_path, "kshot.yaml", *shots, trials=trials)) for trials in (1, 3)
    )
    assert len(one.train_set) < len(three.train_set)
    assert one.data.known == three.data.known and one.data.known["train"].images == 60


def test_objects_that_trials_draw_are_of_the_whole_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    shots = ("DATASETS.TRAIN", "('voc:digits_voc:train@1shot',)")
    job = DetectionTask().open_data(request(tmp_path, "digits_voc.yaml", *shots), scan=False)
    assert job.data.known["train"] == open_sets(["voc:digits_voc:train"]).fingerprint
    assert job.data.known["train"].images > len(job.train_set)


def test_the_doctor_finds_test_images_among_the_training_images(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    both = ("DATASETS.TRAIN", "folder:digits_cls:train", "DATASETS.TEST", "folder:digits_cls:train")
    job = ClassificationTask().open_data(
        request(tmp_path, "knn_digits.yaml", *both, "PROTOCOL.K", "(5,)")
    )
    rows = Rows()
    check_shared(rows, job.data)
    (row,) = rows
    assert (row.name, row.status) == ("data in both", WARN)
    assert row.detail.startswith("60 of the 60 images of folder:digits_cls:train are also in")


@pytest.mark.parametrize("content", ["{", "[" * 100_000, '{"train": 1}', "\x00", "1" * 5000])
def test_what_a_damaged_file_says_of_the_data_is_unknown(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "data.json"
    file.write_text(content)
    assert read_data(file) == {}
    assert [str(file) in message for message in caplog.messages] == [True]


def test_a_folder_without_the_file_says_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_data(tmp_path / "data.json") == {} and not caplog.messages
