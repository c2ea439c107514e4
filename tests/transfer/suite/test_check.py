"""Every task is checked before the first job starts, and all faults are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torchvision.models import resnet18

from pretrain.common.config import dump_yaml, load_config
from pretrain.data import datasets
from pretrain.digits.dataset import make_digits
from pretrain.engine import before_a_run
from pretrain.engine.checks import load_checked
from tools.run_suite import main
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.classification.defaults import get_defaults as classification_defaults
from transfer.detection.config import load_detection_config
from transfer.results.record import make_record, write_record
from transfer.suite.check import check_jobs
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import plan

SUITE = """
CHECKPOINTS: [{name: untrained, weights: random}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml}
  - {name: boxes, command: det, config: digits_voc.yaml}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    make_digits(folder, classification=(120, 20, 20), scenes=(6, 4, 4))
    return folder


@pytest.fixture
def suite(tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The options of a small suite on the digits."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(digits))
    (tmp_path / "suite.yaml").write_text(SUITE)
    return ["--config", str(tmp_path / "suite.yaml"), "--output", str(tmp_path / "out")]


def errors(capsys: pytest.CaptureFixture) -> list[str]:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return [line.removeprefix("error: ") for line in lines]


def test_all_missing_data_is_named_before_anything_starts(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    assert main(suite) == 2
    knn, boxes = errors(capsys)
    assert knn.startswith("knn: ") and "digits_cls" in knn
    assert boxes.startswith("boxes: ") and "digits_voc" in boxes
    assert not (tmp_path / "out").exists()


def test_a_plan_says_a_shared_reason_once(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "empty"))
    twice = SUITE + "  - {name: again, command: cls, config: knn_digits.yaml}\n"
    (tmp_path / "suite.yaml").write_text(twice)
    assert main([*suite, "--dry-run", "--probe-seconds", "0"]) == 0
    lines = {line.split()[2]: line for line in capsys.readouterr().out.splitlines()[:3]}
    assert "cannot start here: for the reason of knn/untrained" in lines["again/untrained"]
    assert "digits_cls" in lines["knn/untrained"] and "digits_voc" in lines["boxes/untrained"]


def test_typos_in_configs_are_told_together(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    text = SUITE.replace("knn_digits.yaml}", "knn_digits.yaml, overrides: [PROTOCOL.KK, 3]}")
    text = text.replace("digits_voc.yaml}", "digits_voc.yaml, overrides: [SOLVER.BASE_LRR, 1.0]}")
    (tmp_path / "suite.yaml").write_text(text)
    for more in ([], ["--dry-run"]):
        assert main([*suite, *more]) == 2
        first, second = errors(capsys)
        assert first.startswith("knn: ") and "PROTOCOL.K" in first
        assert second.startswith("boxes: ") and "SOLVER.BASE_LR" in second


def test_weights_are_compared_with_what_the_tasks_build(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    (tmp_path / "bad.pth").write_bytes(b"not weights")
    given = ["--checkpoint", f"r18={tmp_path / 'r18.pth'}"]
    given += ["--checkpoint", f"bad={tmp_path / 'bad.pth'}"]
    assert main([*suite, *given]) == 2
    lines = errors(capsys)
    assert [line.split(":")[0] for line in lines] == ["checkpoint bad", "boxes/r18"]
    assert "resnet18" in lines[1] and "tiny_resnet" in lines[1]


def test_a_batch_that_does_not_divide(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main([*suite, "--gpus-per-job", "3", "--dry-run", "--probe-seconds", "0"]) == 0
    said = capsys.readouterr()
    assert "cannot start here: SOLVER.IMS_PER_BATCH 8 is not a multiple of 3" in said.out
    assert "1 of 2 jobs cannot start here" in said.err


def test_plan_first(tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main([*suite, "--dry-run", "--probe-seconds", "0", "--task", "knn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("to do knn/untrained") and lines[-1] == "1 of 1 jobs to do"
    assert not (tmp_path / "out").exists()


def test_a_suite_killed_between_pretraining_and_conversion_continues(
    tmp_path: Path, suite: list[str]
) -> None:
    """The weights are still to be made, though the pretraining is done."""
    text = SUITE + "PRETRAIN: [{name: mine, config: mscn_demo.yaml}]\n"
    (tmp_path / "suite.yaml").write_text(text)
    cfg = load_config(str(tmp_path / "suite.yaml"), suite_defaults(), [])
    jobs = plan(cfg, tmp_path / "out", {})
    folder = tmp_path / "out" / "pretrain" / "mine"
    folder.mkdir(parents=True)
    for name in ("checkpoint.pth", "finished.txt"):
        (folder / name).touch()
    assert [job.name for job in jobs if job.is_done()] == ["pretrain/mine"]
    checks = check_jobs(jobs, before_a_run)
    assert not checks.problems and checks.backbones["boxes/mine"] == "tiny_resnet"


def test_the_data_of_several_pretraining_jobs_is_listed_once(
    tmp_path: Path, suite: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SUITE + "PRETRAIN: [{name: one, config: mscn_demo.yaml, overrides: [SEED, 1]},\n"
    (tmp_path / "suite.yaml").write_text(text + "  {name: two, config: mscn_demo.yaml}]\n")
    cfg = load_config(str(tmp_path / "suite.yaml"), suite_defaults(), [])
    jobs = [job for job in plan(cfg, tmp_path / "out", {}) if job.kind == "pretrain"]
    scanned: list[str] = []
    scan = datasets.scan_folder
    monkeypatch.setattr(datasets, "scan_folder", lambda at: scanned.append(at.name) or scan(at))
    check_jobs(jobs, before_a_run)
    assert len(jobs) == 2 and sorted(scanned) == ["train", "val"]


def test_records_of_other_weights_are_not_taken_for_done(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    command = [*suite, "--task", "knn", "--checkpoint", f"mine={tmp_path / 'r18.pth'}"]
    record = tmp_path / "out" / "knn" / "mine" / "trial_0" / "record.json"
    write_record(record.parent, make_valid_record(read_weights(str(tmp_path / "r18.pth"))))
    options = ["--dry-run", "--probe-seconds", "0"]
    assert main([*command, *options]) == 0
    assert "done  knn/mine" in capsys.readouterr().out
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    assert main(command) == 2
    (line,) = errors(capsys)
    assert line.startswith("knn/mine: ") and "of different weights" in line


def write_knn(folder: Path, weights: str, *overrides: str) -> None:
    """A trial's files as train_cls writes them, for `knn_digits`."""
    cfg = load_config("knn_digits.yaml", classification_defaults(), overrides, "classification")
    record = make_valid_record(read_weights(weights, backbone="tiny_resnet"))
    write_record(folder, {**record, "seed": cfg.SEED})
    formats = {"PRECISION": "bf16", "STORAGE": "fp16"}  # what a GPU makes of `auto`
    text = yaml.safe_load(dump_yaml(cfg))
    (folder / "config.yaml").write_text(yaml.safe_dump({**text, "FEATURES": formats}))


def test_records_of_another_config_are_not_taken_for_done(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "out" / "knn" / "untrained" / "trial_0"
    write_knn(folder, "random", "DATALOADER.NUM_WORKERS", "7")
    plan_only = ["--dry-run", "--probe-seconds", "0", "--task", "knn"]
    assert main([*suite, *plan_only]) == 0
    assert "done  knn/untrained" in capsys.readouterr().out, "workers are not part of a protocol"
    for change, told in {
        'PROTOCOL.K, "(5,)"': "PROTOCOL.K ([10, 20, 100] then, [5] now)",
        "SEED, 4": "SEED (0 then, 4 now)",
        "BACKBONE.NAME, resnet18": "BACKBONE.NAME (tiny_resnet then, resnet18 now)",
        "FEATURES.PRECISION, fp32": "FEATURES.PRECISION (bf16 then, fp32 now)",
    }.items():
        text = SUITE.replace("knn_digits.yaml}", f"knn_digits.yaml, overrides: [{change}]}}")
        (tmp_path / "suite.yaml").write_text(text)
        assert main([*suite, "--task", "knn"]) == 2
        (line,) = errors(capsys)
        assert line.startswith("knn/untrained: ") and told in line
        assert main([*suite, *plan_only]) == 0
        assert told in capsys.readouterr().out, "a plan tells it as well"
    (tmp_path / "suite.yaml").write_text(SUITE.replace("knn_digits", "linear_digits"))
    assert main([*suite, "--task", "knn"]) == 2
    assert "has the protocol knn_digits, not linear_digits" in errors(capsys)[0]


def test_detection_and_pretraining_of_another_config_are_not_continued(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    text = SUITE.replace("digits_voc.yaml}", "digits_voc.yaml, overrides: [SOLVER.BASE_LR, 0.1]}")
    entry = "{name: mine, config: mscn_demo.yaml, overrides: [SOLVER.MAX_STEPS, 7]}"
    (tmp_path / "suite.yaml").write_text(f"{text}PRETRAIN: [{entry}]\n")
    folder = tmp_path / "out" / "boxes" / "untrained" / "trial_0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(load_detection_config("digits_voc.yaml")))
    (folder / "model_0000099.pth").touch()
    (folder / "last_checkpoint").write_text("model_0000099.pth")
    pretrained = tmp_path / "out" / "pretrain" / "mine"
    pretrained.mkdir(parents=True)
    (pretrained / "checkpoint.pth").touch()
    (pretrained / "config.yaml").write_text(dump_yaml(load_checked("mscn_demo.yaml", [], 1)))
    assert main(suite) == 2
    found = dict(line.split(": ", 1) for line in errors(capsys))
    assert "SOLVER.MAX_STEPS" in found["pretrain/mine"] and "7 now" in found["pretrain/mine"]
    assert "SOLVER.BASE_LR (0.001 then, 0.1 now)" in found["boxes/untrained"]


def test_a_detector_that_began_with_other_weights_is_not_continued(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    folder = tmp_path / "out" / "boxes" / "mine" / "trial_0"
    folder.mkdir(parents=True)
    (folder / "model_final.pth").touch()
    (folder / "last_checkpoint").write_text("model_final.pth")
    (folder / "weights.sha256").write_text("0" * 64)
    given = ["--task", "boxes", "--checkpoint", f"mine={tmp_path / 'r18.pth'}"]
    assert main([*suite, *given]) == 2
    (line,) = errors(capsys)
    assert (
        line.startswith("boxes/mine: ") and "a run of different weights (000000000000 then" in line
    )


def test_records_of_weights_that_are_made_anew(
    tmp_path: Path, suite: list[str], capsys: pytest.CaptureFixture
) -> None:
    text = f"{SUITE}PRETRAIN: [{{name: mine, config: mscn_demo.yaml}}]\n"
    (tmp_path / "suite.yaml").write_text(text)
    write_knn(tmp_path / "out" / "knn" / "mine" / "trial_0", "random")
    assert main([*suite, "--task", "knn"]) == 2
    (line,) = [line for line in errors(capsys) if line.startswith("knn/mine: ")]
    assert "pretrain/mine would make again" in line


def make_valid_record(weights: Weights) -> dict:
    return make_record(
        weights=weights,
        name="mine",
        task="knn",
        dataset="digits",
        protocol={"name": "knn_digits", "config_sha256": "c", "engine": "e", "engine_version": "1"},
        trial=0,
        seed=0,
        metrics={"top1": 1.0},
        per_class=None,
        artifacts={},
        started="now",
        seconds=1.0,
        gpu_seconds=0.0,
        views_seen=1,
    )
