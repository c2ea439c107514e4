"""A suite's task with `head` scores the heads that a different task of the suite trains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pretrain.common.config import load_config
from pretrain.digits.dataset import make_digits
from pretrain.engine import before_a_run
from tools.run_suite import main
from transfer.suite.check import check_jobs
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import Job, plan

WORDS = (
    "BACKBONE.NAME tiny_resnet DATALOADER.NUM_WORKERS 0 DATALOADER.BATCH_SIZE 32 REPLICATES 10 "
    "QUALITY.IMAGES 0 PROTOCOL.RESIZE 32 PROTOCOL.IMAGE_SIZE 32 DATASETS.TRAIN "
    "folder:digits_cls:train DATASETS.TEST folder:digits_cls:test"
).split()
TRAINED = {
    "name": "probe",
    "command": "cls",
    "config": "linear.yaml",
    "overrides": [*WORDS, "SOLVER.EPOCHS", "20", "SOLVER.LR_PER_256", "(1.0,)"],
}
SCORED = {"name": "again", "command": "cls", "config": "robustness.yaml", "head": "probe"}
SCORED["overrides"] = WORDS


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_digits(tmp_path, seed=2, classification=(60, 0, 40), scenes=(1, 0, 1))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def suite_file(folder: Path, *tasks: dict[str, Any]) -> Path:
    content = {"CHECKPOINTS": [{"name": "a", "weights": "random"}], "TASKS": list(tasks)}
    (folder / "suite.yaml").write_text(yaml.safe_dump(content))
    return folder / "suite.yaml"


def jobs_of(file: Path, output: Path, *only: str) -> list[Job]:
    return plan(load_config(str(file), suite_defaults(), []), output, {}, only=only)


def test_the_head_is_trained_first_and_found(digits: Path, capsys: pytest.CaptureFixture) -> None:
    """The same images as the probe's test set, so the numbers are those of the probe."""
    file = suite_file(digits, SCORED, TRAINED)
    words = ["--config", str(file), "--output", str(digits / "out")]
    assert main([*words, "--dry-run", "--probe-seconds", "0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[:2]] == ["probe/a", "again/a"]
    assert "heads that it scores are still to train" in lines[1]
    assert main([*words, "--task", "again"]) == 0
    records = {
        task: json.loads((digits / f"out/{task}/a/trial_0/record.json").read_text())
        for task in ("probe", "again")
    }
    assert records["again"]["task"] == "robustness"
    assert records["again"]["metrics"] == records["probe"]["metrics"]
    capsys.readouterr()
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err.count("already done") == 2
    assert "HEAD.RUN" not in said.out, "the folder of a head does not change the protocol"
    done = jobs_of(file, digits / "out")
    assert not check_jobs(done, before_a_run).problems
    assert all(job.is_done() and not job.waits_for_head for job in done)


@pytest.mark.parametrize(
    "scored, trained, message",
    [
        (
            {"head": "prob"},
            {},
            "unknown task that trains a head 'prob' in head.*did you mean 'probe'",
        ),
        ({"head": 3}, {}, "head must be the name of a task, got 3"),
        ({"head": "again"}, {}, "names a task that trains heads itself"),
        ({"trials": 2}, {}, "has 2 trials, but head probe has only 1"),
        ({}, {"checkpoints": ["b"]}, "head probe is not run for checkpoint a"),
    ],
)
def test_wrong_heads(
    scored: dict[str, Any],
    trained: dict[str, Any],
    message: str,
    digits: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    file = suite_file(digits, {**SCORED, **scored}, {**TRAINED, **trained})
    more = ["--checkpoint", "b=random"] if trained else []
    assert main(["--config", str(file), "--dry-run", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]

    assert re.search(message, line), line


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("PROTOCOL.NAME", "knn", "PROTOCOL.NAME is knn; only linear or linear_crops with one head"),
        ("PROTOCOL.INTERPOLATION", "bicubic", "is bilinear, but the head in .* bicubic"),
    ],
)
def test_heads_that_cannot_be_scored_are_found_before_they_are_trained(
    key: str, value: str, message: str, digits: Path
) -> None:
    trained = {**TRAINED, "overrides": [*TRAINED["overrides"], key, value]}
    if value == "knn":
        trained = {**TRAINED, "config": "knn.yaml", "overrides": [*WORDS, "PROTOCOL.K", "[3]"]}
    jobs = jobs_of(suite_file(digits, trained, SCORED), digits / "out")

    problems = check_jobs(jobs, before_a_run).problems
    assert list(problems) == ["again/a"] and re.search(message, problems["again/a"][1]), problems
