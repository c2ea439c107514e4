"""The plan of a suite: from entries to jobs; all faults are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretrain.common.config import load_config
from pretrain.common.errors import InputError
from transfer.suite.config import Problems
from transfer.suite.defaults import suite_defaults
from transfer.suite.plan import Job, plan, split_trials


def suite(tmp_path: Path, text: str, **options: object) -> list[Job]:
    path, given = tmp_path / "suite.yaml", tmp_path / "given.pth"
    path.write_text(text)
    given.write_bytes(b"x")
    cfg = load_config(str(path), suite_defaults(), [])
    return plan(cfg, tmp_path / "out", {"given": str(given)}, **options)


MATRIX = """
PRETRAIN: [{name: a, config: mscn_demo.yaml, overrides: [SEED, 3]}]
CHECKPOINTS: [{name: untrained, weights: random}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml, trials: 2}
  - {name: boxes, command: det, config: digits_voc.yaml, checkpoints: [a]}
"""


def test_plan_is_the_matrix_with_needs(tmp_path: Path) -> None:
    jobs = {job.name: job for job in suite(tmp_path, MATRIX)}
    matrix = ["knn/untrained", "knn/given", "knn/a", "boxes/a"]
    assert list(jobs) == ["pretrain/a", "convert/a", *matrix]
    assert jobs["pretrain/a"].command[-2:] == ("SEED", "3")
    assert jobs["knn/a"].needs == ("convert/a",) and jobs["knn/given"].needs == ()
    assert len(jobs["knn/a"].results) == 2
    assert str(tmp_path / "out" / "pretrain" / "a" / "backbone.pkl") in jobs["knn/a"].command
    assert all("--resume" in job.command for job in jobs.values() if job.kind != "convert")


def test_processes_and_chosen_tasks(tmp_path: Path) -> None:
    jobs = {job.name: job for job in suite(tmp_path, MATRIX, gpus_per_job=4, only=["boxes"])}
    assert list(jobs) == ["pretrain/a", "convert/a", "boxes/a"]
    for name in ("pretrain/a", "boxes/a"):
        place = jobs[name].command.index("--num-gpus")
        assert jobs[name].command[place + 1] == "4" and jobs[name].gpus == 4
    with pytest.raises(InputError, match="did you mean 'boxes'"):
        suite(tmp_path, MATRIX, only=["boxs"])


@pytest.mark.parametrize(
    "text, expected",
    [
        ("TASKS: [{name: a, command: cls}]", "TASKS[0] lacks 'config'"),
        ("TASKS: [{name: a, 7: b}]", "TASKS[0]: a field's name must be a text, got 7"),
        ("TASKS: [{name: a, command: cls, config: c, trails: 3}]", "did you mean 'trials'"),
        ("TASKS: [{name: a, command: cl, config: c}]", "unknown command 'cl'"),
        ("TASKS: [7]", "TASKS[0] must be a mapping"),
        ("TASKS: [{name: 7, command: cls, config: c}]", "TASKS[0]: name must be a text, got 7"),
        (
            "TASKS: [{name: a, command: cls, config: knn_digits.yaml, checkpoints: [givn]}]",
            "did you mean 'given'",
        ),
        (
            "TASKS: [{name: a, command: cls, config: knn_digits.yaml, checkpoints: given}]",
            "checkpoints must be a list",
        ),
        ("PRETRAIN: [mscn_dmo.yaml]", "did you mean 'mscn_demo.yaml'"),
        ("TASKS: [{name: a, command: cls, config: knn_digits.yaml, trials: 0}]", "1 or more"),
        (
            "TASKS: [{name: a/b, command: cls, config: knn_digits.yaml}]",
            "cannot be the name of a folder",
        ),
        (
            "TASKS: [{name: logs, command: cls, config: knn_digits.yaml}]",
            "cannot be the name of a folder",
        ),
        ("CHECKPOINTS: [{name: given, weights: random}]", "the name 'given' is used twice"),
        (
            "CHECKPOINTS: [{name: b, weights: gone.pth}]",
            "checkpoint b: no weights file at gone.pth",
        ),
        (f"CHECKPOINTS: [{{name: b, weights: {'x' * 5000}}}]", "File name too long"),
    ],
)
def test_bad_suites_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        suite(tmp_path, text)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Problems) as error:
        suite(
            tmp_path,
            """
CHECKPOINTS: [{name: b, weights: gone.pth}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml}
  - {name: knn, command: cls, config: knn_digits.yaml}
  - {name: boxes, command: dt, config: digits_voc.yaml}
""",
        )
    assert len(error.value.lines) == 3
    assert str(error.value).count("\nerror: ") == 2, "one line each, as the commands print them"


def test_of_very_many_faults_the_number_is_told(tmp_path: Path) -> None:
    with pytest.raises(Problems) as error:
        suite(tmp_path, f"PRETRAIN: {[0] * 1000}")
    assert len(error.value.lines) == 51
    assert "950 more such lines are not shown" in error.value.lines[-1]


def test_a_suite_without_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("TASKS: []")
    cfg = load_config(str(tmp_path / "suite.yaml"), suite_defaults(), [])
    with pytest.raises(InputError, match="no checkpoint: add --checkpoint"):
        plan(cfg, tmp_path, {})


SPLIT = """
CHECKPOINTS: [{name: untrained, weights: random}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml, trials: 2}
  - {name: boxes, command: det, config: digits_voc.yaml, trials: 3, overrides: [SEED, 4]}
"""


def test_trials_of_detection_are_jobs_where_slots_are_free(tmp_path: Path) -> None:
    jobs = suite(tmp_path, SPLIT)
    assert split_trials(jobs, 4) == jobs, "four tasks fill four slots"
    parts = {job.name: job for job in split_trials(jobs, 5)}
    boxes = [f"boxes/{name}/trial_{t}" for name in ("untrained", "given") for t in range(3)]
    assert list(parts) == ["knn/untrained", "knn/given", *boxes]
    part, whole = parts["boxes/given/trial_2"], next(j for j in jobs if j.name == "boxes/given")
    words = list(part.command)
    assert (
        words[words.index("--first-trial") + 1] == "2" and words[words.index("--trials") + 1] == "3"
    )
    assert part.results == whole.results[2:] and part.output == whole.output
    assert words[-2:] == ["SEED", "4"]
