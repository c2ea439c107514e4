"""tools/doctor.py on every kind of config: it says what would fail, with exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pretrain.common import run_needs
from pretrain.common.gpus import GPUS, Gpu
from pretrain.data import datasets
from pretrain.digits.dataset import make_digits
from tools.doctor import main


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, classification=(120, 20, 20), scenes=(6, 4, 4))
    return folder


@pytest.fixture(autouse=True)
def data(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))


def rows(capsys: pytest.CaptureFixture, *words: str, status: int = 0) -> dict[str, dict]:
    """Runs the command with --json; its findings by name."""
    assert main([*words[:2], "--json", *words[2:]]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is (status == 0)
    return {row["name"]: row for row in found["checks"]}


def test_alone_it_looks_at_the_machine(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines} >= {"python", "torch", "gpu", "detectron2", "disk"}


def test_detection(capsys: pytest.CaptureFixture) -> None:
    found = rows(capsys, "--config", "digits_voc.yaml", "--weights", "random")
    assert "6 images, 9 classes" in found["data voc:digits_voc:train"]["detail"]
    assert "effective batch 8 (1 process x 8)" in found["batch"]["detail"]
    objects = found["objects voc:digits_voc:train"]["detail"]
    assert "objects of 9 classes" in objects and "objects per class: " in objects
    # Another rate is another protocol: no failure, but said.
    found = rows(capsys, "--config", "digits_voc.yaml", "SOLVER.BASE_LR", "0.5")
    assert found["batch"]["status"] == "warn" and "BASE_LR" in found["batch"]["detail"]


def test_segmentation_and_pretraining(capsys: pytest.CaptureFixture) -> None:
    found = rows(capsys, "--config", "digits_fcn.yaml")
    assert "semantic" in found["config"]["detail"] and "batch" in found
    small = ["SOLVER.BATCH_SIZE", "32", "SOLVER.MAX_STEPS", "9", "SOLVER.WARMUP_STEPS", "1"]
    found = rows(capsys, "--config", "mscn_demo.yaml", *small)
    assert "120 images" in found["data folder:digits_cls:train"]["detail"]
    assert "effective batch 32 (1 x 32)" in found["batch"]["detail"]


def test_the_memory_and_time_of_a_named_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(GPUS, "small", Gpu("small", 0.01))
    demo, few = ["--config", "mscn_demo.yaml", "--gpu"], ["SOLVER.MAX_STEPS", "9"]
    few += ["SOLVER.WARMUP_STEPS", "1", "DATALOADER.NUM_WORKERS", "2"]
    found = rows(capsys, *demo, "V100-16", *few)
    assert "64 images per process" in found["memory v100-16"]["detail"]
    assert "9 steps" in found["compute v100-16"]["detail"] and "shared memory" in found
    assert found["gpu"]["detail"].startswith("1 x v100-16 by --gpu")
    found = rows(capsys, *demo, "small", *few, status=2)
    assert "lower SOLVER.BATCH_SIZE" in found["memory small"]["detail"]
    assert "not calibrated" in found["compute small"]["detail"]
    detection = ["--config", "digits_voc.yaml", "--weights", "random", "--gpu", "small"]
    found = rows(capsys, *detection, status=2)
    assert "8 images per process" in found["memory small"]["detail"]
    assert main(["--config", "mscn_demo.yaml", "--gpu", "abacus"]) == 2
    assert "unknown GPU 'abacus' in --gpu; known: a10" in capsys.readouterr().err


def test_shared_memory_that_is_too_small_fails_here_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run_needs, "free_shared_memory", lambda: 2**20)
    demo = ["--config", "mscn_demo.yaml"]
    few = ["SOLVER.MAX_STEPS", "9", "SOLVER.WARMUP_STEPS", "1", "DATALOADER.NUM_WORKERS", "2"]
    assert "--shm-size" in rows(capsys, *demo, *few, status=2)["shared memory"]["detail"]
    assert rows(capsys, *demo, "--gpu", "t4", *few)["shared memory"]["status"] == "warn"


def test_classification_finds_what_would_stop_it(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert "8 of 8" in str(rows(capsys, "--config", "knn_digits.yaml", "--weights", "random"))
    words = ["--config", "knn_digits.yaml", "--weights", str(tmp_path / "gone.pth")]
    found = rows(capsys, *words, "PROTOCOL.K", "(500,)", status=2)
    assert found["weights"]["status"] == found["data"]["status"] == "fail"
    assert "500 neighbours" in found["data"]["detail"] and "gone.pth" in found["weights"]["detail"]


def test_official_classification_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for config in ("linear_inat18.yaml", "linear_places205.yaml"):
        found = rows(capsys, "--config", config, "--weights", "random", status=2)
        assert "is missing; expected" in found["data"]["detail"]
    names = [f"train_val2018/Aves/{image // 2}/{image}.jpg" for image in range(4)]
    for name in names:
        (tmp_path / "inat2018" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "inat2018" / name)
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, "category_id": i // 2} for i in range(4)],
        "categories": [{"id": i, "name": f"species {i}"} for i in (0, 1)],
    }
    for split in ("train", "val"):
        (tmp_path / "inat2018" / f"{split}2018.json").write_text(json.dumps(content))
    row = rows(capsys, "--config", "linear_inat18.yaml", "--weights", "random")
    for split in ("train", "val"):
        found = row[f"data inat2018:{split}"]
        assert found["status"] == "warn" and "4 images, 2 classes" in found["detail"]
        assert "the whole set has 8142 classes" in found["detail"]


def test_failures_are_named_on_standard_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["--config", "coco_mscn.yaml", "--weights", "random"]) == 2
    output = capsys.readouterr()
    assert "error: a run would fail: data: " in output.err and "train2017.json" in output.err
    assert "fail  data" in output.out
    assert main(["--config", "digits_voc.yaml", "SOLVER.BASE_LRR", "3"]) == 2
    assert "did you mean 'SOLVER.BASE_LR'" in capsys.readouterr().err


def test_suites(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.yaml"  # of no folder that tells its kind
    path.write_text(
        "CHECKPOINTS: [{name: untrained, weights: random}]\n"
        "TASKS:\n"
        "  - {name: knn, command: cls, config: knn_digits.yaml}\n"
        "  - {name: coco, command: det, config: coco_mscn.yaml}\n"
    )
    found = rows(capsys, "--config", str(path), status=2)
    assert "2 jobs, 0 of them done" in found["suite"]["detail"]
    assert "train2017.json" in found["coco"]["detail"] and "knn" not in found


def test_own_configs_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "DATASETS: {TRAIN: 'folder:digits_cls:train', TEST: 'folder:digits_cls:test'}\n"
    )
    assert "knn" in rows(capsys, "--config", str(path), "PROTOCOL.K", "(5,)")["config"]["detail"]
    path.write_text("NOTHING: 1\n")
    assert main(["--config", str(path)]) == 2
    assert "or a suite: its keys are NOTHING" in capsys.readouterr().err


def test_an_own_config_with_a_typo_is_told_as_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("_BASE_: own_fpn.yaml\nSOLVER: {MAX_ITERS: 9}\nINPUT: {SIZE: 3}\n")
    assert main(["--config", str(path)]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f"error: {path}: unknown keys SOLVER.MAX_ITERS (did you mean")
    assert "INPUT.SIZE" in text and "DATALOADER" not in text and text.count("\n") == 1


def test_a_probe_measures_the_run(capsys: pytest.CaptureFixture) -> None:
    short = ["SOLVER.MAX_ITER", "3", "TRANSFER.DRAW_DETECTIONS", "0", "DATALOADER.NUM_WORKERS", "0"]
    words = ["--config", "digits_voc.yaml", "--probe", "--probe-seconds", "120", *short]
    found = rows(capsys, *words)
    assert "a complete trial was timed" in found["time"]["detail"]
    assert "GiB" in found["memory"]["detail"]


def test_own_data_is_no_doubt(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A config that leaves its data open is followed by naming it; Detectron2 is of detectors."""
    data = ("DATASETS.TRAIN", "voc:digits_voc:train", "DATASETS.TEST", "voc:digits_voc:val")
    found = rows(capsys, "--config", "own_fpn.yaml", "--weights", "random", *data)
    assert found["batch"]["status"] == "ok" and "with own_fpn: yes" in found["batch"]["detail"]
    assert "detectron2" in found
    data = ("DATASETS.TRAIN", "folder:digits_cls:train", "DATASETS.TEST", "folder:digits_cls:val")
    found = rows(capsys, "--config", "own_finetune.yaml", "--weights", "random", *data)
    assert "detectron2" not in found
    assert found["torch"]["detail"].partition(";")[0].endswith("(2.10 or newer is needed)")


def test_cache_and_queue(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scanned: list[Path] = []
    scan = datasets.scan_folder
    monkeypatch.setattr(datasets, "scan_folder", lambda path: scanned.append(path) or scan(path))
    for number, width in enumerate((20, 20, 20, 21)):
        Image.new("RGB", (width, 20)).save(tmp_path / f"{number}.png")
    small = ["SOLVER.BATCH_SIZE", "2", "SOLVER.MAX_STEPS", "9", "SOLVER.WARMUP_STEPS", "1"]
    off = ["DATASETS.KNN_TRAIN", "", "DATASETS.KNN_TEST", "", "METHOD.QUEUE_SIZE", "6"]
    words = [*small, *off, "METHOD.BN_GROUP", "0"]
    data = ["DATASETS.TRAIN", f"folder:{tmp_path}"]
    found = rows(capsys, "--config", "moco_v2_r18_tiny100.yaml", *words, *data)
    assert found["cache"]["status"] == "ok"
    assert "images are read from files: their sizes differ" in found["cache"]["detail"]
    assert "3.png has 21x20 px" in found["cache"]["detail"]
    assert found["queue"]["status"] == "warn"
    assert "QUEUE_SIZE 6 is larger than the 4 training images" in found["queue"]["detail"]
    assert scanned == [tmp_path], "each folder is listed once"
    (tmp_path / "3.png").unlink()
    words[words.index("METHOD.QUEUE_SIZE") + 1] = "2"
    found = rows(capsys, "--config", "moco_v2_r18_tiny100.yaml", *words, *data)
    assert found["cache"]["detail"].endswith("decoded images fit") and "queue" not in found
