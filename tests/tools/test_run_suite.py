"""The command on the digits: a complete small suite, resumed after a failure, and its errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretrain.common.gpus import GPUS, Gpu
from pretrain.digits.dataset import make_digits
from tools.run_suite import main

SHORT = 'overrides: [PROTOCOL.K, "(5,)", DATALOADER.NUM_WORKERS, 0]'
SUITE = f"""
CHECKPOINTS: [{{name: untrained, weights: random}}]
TASKS:
  - {{name: knn, command: cls, config: knn_digits.yaml, {SHORT}}}
  - {{name: broken, command: cls, config: knn_digits.yaml, {SHORT}}}
"""


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert main(["--config", "no_such_suite.yaml"]) == 2
    assert main(["--config", "demo.yaml", "--checkpoint", "a"]) == 2
    assert main(["--config", "demo.yaml", "--checkpoint", f"a={tmp_path}/gone.pth"]) == 2
    assert main(["--config", "demo.yaml", "--output", str(tmp_path / "file")]) == 2
    assert main(["--config", "demo.yaml", "TASK", "[]"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 5 and all(line.startswith("error: ") for line in errors)


def test_a_suite_runs_goes_on_after_a_failure_and_skips_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_digits(tmp_path / "data", classification=(40, 20, 20), scenes=(2, 2, 2))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    (tmp_path / "suite.yaml").write_text(SUITE)
    output = tmp_path / "out"
    trap = output / "broken" / "untrained" / "trial_0"  # a file where a folder is to be
    trap.parent.mkdir(parents=True)
    trap.touch()
    command = ["--config", str(tmp_path / "suite.yaml"), "--output", str(output), "--json"]
    command += ["--jobs", "2"]
    assert main(command) == 1
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert lines[-1]["states"] == {"knn/untrained": "done", "broken/untrained": "failed"}
    assert told.err.splitlines()[-1].startswith("error: 1 of 2 jobs are not done; the reasons are")
    assert (output / "knn" / "untrained" / "trial_0" / "record.json").is_file()
    (finished,) = [line for line in lines if line["event"] == "done"]
    assert "knn5_top1 " in finished["detail"]
    trap.unlink()
    assert main(command) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0]["detail"] == "already done" and lines[0]["job"] == "knn/untrained"
    assert set(lines[-1]["states"].values()) == {"done"}
    assert (output / "report" / "report.html").is_file()


def test_a_plan_says_whether_jobs_fit_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))  # the data is not needed for it
    pretrain = "{name: a, config: mscn_demo.yaml}, {name: b, config: mscn_demo.yaml}"
    (tmp_path / "suite.yaml").write_text(f"PRETRAIN: [{pretrain}]\n")
    command = ["--config", str(tmp_path / "suite.yaml"), "--dry-run", "--probe-seconds", "0"]
    assert main([*command, "--gpu", "a100-40"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert sum(line.startswith("memory a100-40: ") for line in lines) == 2
    assert sum(line.startswith("compute a100-40: ") for line in lines) == 2
    monkeypatch.setitem(GPUS, "small", Gpu("small", 0.01))
    assert main([*command, "--gpu", "small", "--json"]) == 2
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert "pretrain/a: memory small: " in line and "lower SOLVER.BATCH_SIZE" in line
    jobs = {job["name"]: job for job in json.loads(captured.out)["jobs"]}
    assert jobs["pretrain/b"]["gpu"][0]["problem"] and jobs["convert/b"]["gpu"] == []
