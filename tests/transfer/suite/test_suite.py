"""The plan of a suite, and its launcher on small real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT, load_config
from pretrain.common.errors import InputError
from tools.run_suite import main
from transfer.suite.defaults import suite_defaults
from transfer.suite.launch import run_jobs
from transfer.suite.plan import Job, plan


def suite(tmp_path: Path, text: str) -> list[Job]:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    cfg = load_config(str(path), suite_defaults(), [])
    return plan(cfg, tmp_path / "out", {"given": "given.pth"})


def test_plan_is_the_matrix_with_needs(tmp_path: Path) -> None:
    jobs = suite(
        tmp_path,
        """
PRETRAIN: [{name: a, config: mscn_demo.yaml, overrides: [SEED, 3]}]
CHECKPOINTS: [{name: untrained, weights: random}]
TASKS:
  - {name: knn, command: cls, config: knn_digits.yaml, trials: 2}
  - {name: boxes, command: det, config: digits_voc.yaml, checkpoints: [a]}
""",
    )
    by_name = {job.name: job for job in jobs}
    matrix = ["knn/untrained", "knn/given", "knn/a", "boxes/a"]
    assert list(by_name) == ["pretrain/a", "convert/a", *matrix]
    assert by_name["pretrain/a"].command[-2:] == ("SEED", "3")
    assert by_name["knn/a"].needs == ("convert/a",) and by_name["knn/given"].needs == ()
    assert len(by_name["knn/a"].results) == 2
    assert str(tmp_path / "out" / "pretrain" / "a" / "backbone.pkl") in by_name["knn/a"].command


@pytest.mark.parametrize(
    "text, expected",
    [
        ("TASKS: [{name: a, command: cls}]", "TASKS[0] lacks 'config'"),
        ("TASKS: [{name: a, command: cls, config: c, trails: 3}]", "did you mean 'trials'"),
        ("TASKS: [{name: a, command: cl, config: c}]", "unknown command 'cl'"),
        ("TASKS: [7]", "TASKS[0] must be a mapping"),
        (
            "TASKS: [{name: a, command: cls, config: knn_digits.yaml, checkpoints: [givn]}]",
            "did you mean 'given'",
        ),
        ("PRETRAIN: [mscn_dmo.yaml]", "did you mean 'mscn_demo.yaml'"),
    ],
)
def test_bad_suites_are_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        suite(tmp_path, text)
    assert expected in str(error.value)


def job(tmp_path: Path, name: str, code: str, needs: tuple[str, ...] = ()) -> Job:
    result = tmp_path / name
    code = code.replace("MAKE", f"open({str(result)!r}, 'w').write('x')")
    return Job(name, (sys.executable, "-c", code), tmp_path, (result,), needs)


def test_failures_do_not_stop_the_rest_and_done_jobs_are_skipped(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "good", "MAKE"),
        job(tmp_path, "bad", "print('told why'); raise SystemExit(3)"),
        job(tmp_path, "after_bad", "MAKE", ("bad",)),
        job(tmp_path, "after_good", "MAKE", ("good",)),
    ]
    said: list[str] = []
    options = dict(logs=tmp_path / "logs", gpus=0, say=said.append)
    states = run_jobs(jobs, parallel=2, **options)
    assert states == {"good": "done", "bad": "failed", "after_bad": "skipped", "after_good": "done"}
    assert any("bad: FAILED" in line and "told why" in line for line in said)
    said.clear()
    run_jobs(jobs[:1], parallel=1, **options)
    assert said == ["good: already done"]


def test_a_killed_pretraining_is_not_taken_for_done(tmp_path: Path) -> None:
    early = job(tmp_path, "checkpoint", "MAKE; raise SystemExit(1)")
    early = Job(early.name, early.command, early.output, early.results, (), leaves_mark=True)
    options = dict(logs=tmp_path / "logs", parallel=1, gpus=0, say=lambda line: None)
    assert run_jobs([early], **options) == {"checkpoint": "failed"}
    assert early.results[0].exists() and not early.is_done()
    good = job(tmp_path, "checkpoint", "MAKE")
    good = Job(good.name, good.command, good.output, good.results, (), leaves_mark=True)
    assert run_jobs([good], **options) == {"checkpoint": "done"} and good.is_done()


def test_stopping_the_suite_stops_its_commands(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    launcher = f"""
import signal, sys
from pathlib import Path
from transfer.suite.launch import run_jobs
from transfer.suite.plan import Job
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = Path({str(tmp_path)!r})
job = Job("sleep", (sys.executable, "-c", {code!r}), folder, (folder / "never",))
run_jobs([job], logs=folder / "logs", parallel=1, gpus=0, say=print)
"""
    suite_process = subprocess.Popen([sys.executable, "-c", launcher], cwd=CHECKOUT)
    for _ in range(600):
        if note.exists() and note.read_text():
            break
        time.sleep(0.05)
    suite_process.terminate()
    suite_process.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_command_line_errors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--config", "no_such_suite.yaml"]) == 2
    assert main(["--config", "demo.yaml", "--checkpoint", "a"]) == 2
    assert main(["--config", "demo.yaml", "--checkpoint", f"a={tmp_path}/gone.pth"]) == 2
    assert main(["--config", "demo.yaml", "TASK", "[]"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)


def test_dry_run_prints_each_job(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--config", "demo.yaml", "--output", str(tmp_path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("to do pretrain/mscn: ") for line in lines)
    assert not any(tmp_path.iterdir())
