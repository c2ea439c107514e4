"""The launcher on small real processes: order, failures, interruption, GPUs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError
from pretrain.common.stop_signals import Stopped, heard
from transfer.suite.launch import run_jobs
from transfer.suite.local import LocalLauncher, LocalProcess
from transfer.suite.plan import Job

Make = Callable[..., Job]


def run(jobs: list[Job], tmp_path: Path, tell: Callable, **options: object) -> dict[str, str]:
    launcher = LocalLauncher(**{"gpus": [], "slots": 2, **options})
    quiet = lambda running, waiting: None
    return run_jobs(jobs, launcher, logs=tmp_path / "logs", tell=tell, show=quiet)


def test_failures_do_not_stop_the_rest_and_done_jobs_are_skipped(
    make_job: Make, tmp_path: Path, tell: Callable, events: list
) -> None:
    jobs = [
        make_job("good", "MAKE"),
        make_job("bad", "print('told why'); raise SystemExit(3)"),
        make_job("after_bad", "MAKE", ("bad",)),
        make_job("after_good", "MAKE", ("good",)),
        make_job("empty", "pass"),
        make_job("unwritable", "MAKE"),
        make_job("killed", "import os; print('at 3 of 9', flush=True); os.kill(os.getpid(), 9)"),
    ]
    (tmp_path / "logs" / "unwritable.log").mkdir(parents=True)
    states = run(jobs, tmp_path, tell)
    expected = {"good": "done", "bad": "failed", "after_bad": "skipped", "after_good": "done"}
    assert states == {**expected, **dict.fromkeys(("empty", "unwritable", "killed"), "failed")}
    details = {(event, name): detail for event, name, detail in events}
    assert "told why" in details["failed", "bad"]
    assert "wrote no result" in details["failed", "empty"]
    assert "ended by signal 9 (Killed), perhaps" in details["failed", "killed"]
    assert "last line of its log: at 3 of 9" in details["failed", "killed"]
    assert "could not be started" in details["failed", "unwritable"]
    assert "bad failed" in details["skipped", "after_bad"]
    events.clear()
    run(jobs[:1], tmp_path, tell)
    assert events == [("done", "good", "already done")]


def test_a_job_waits_for_what_it_needs_and_a_chain_is_skipped_whole(
    make_job: Make, tmp_path: Path, tell: Callable
) -> None:
    jobs = [
        make_job("slow", "import time; time.sleep(0.5); MAKE"),
        make_job("reader", f"open({str(tmp_path / 'slow')!r}); MAKE", ("slow",)),
        make_job("bad", "raise SystemExit(3)"),
        make_job("second", "MAKE", ("bad",)),
        make_job("third", "MAKE", ("second",)),
    ]
    states = run(jobs, tmp_path, tell)
    expected = {"slow": "done", "reader": "done", "bad": "failed"}
    assert states == {**expected, "second": "skipped", "third": "skipped"}


def test_a_result_of_weights_that_are_made_anew_is_left_to_its_command(
    make_job: Make, tmp_path: Path, tell: Callable
) -> None:
    """It compares them, as the suite could not before they were there."""
    jobs = [
        make_job("weights", "MAKE"),
        make_job("task", "raise SystemExit('of other weights')", ("weights",)),
    ]
    jobs[1].results[0].touch()
    assert run(jobs, tmp_path, tell) == {"weights": "done", "task": "failed"}
    assert run(jobs[:1], tmp_path, tell) == {"weights": "done"}
    assert run(jobs, tmp_path, tell) == {"weights": "done", "task": "done"}


def test_a_killed_pretraining_is_not_taken_for_done(
    make_job: Make, tmp_path: Path, tell: Callable
) -> None:
    early = make_job("checkpoint", "MAKE; raise SystemExit(1)", leaves_mark=True)
    assert run([early], tmp_path, tell) == {"checkpoint": "failed"}
    assert early.results[0].exists() and not early.is_done()
    good = make_job("checkpoint", "MAKE", leaves_mark=True)
    assert run([good], tmp_path, tell) == {"checkpoint": "done"} and good.is_done()


def test_each_job_has_its_own_gpus(make_job: Make, tmp_path: Path, tell: Callable) -> None:
    code = "import os, time; time.sleep(1); print(os.environ['CUDA_VISIBLE_DEVICES']); MAKE"
    jobs = [make_job(name, code) for name in ("a", "b")]
    run(jobs, tmp_path, tell, gpus=["4", "5", "6", "7", "8"], gpus_per_job=2, slots=None)
    seen = {(tmp_path / "logs" / f"{job.name}.log").read_text().strip() for job in jobs}
    assert seen == {"4,5", "6,7"}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gpus": ["0"], "gpus_per_job": 2}, "this machine has 1 GPU"),
        ({"gpus": [], "gpus_per_job": 0}, "--gpus-per-job 0"),
        ({"gpus": [], "slots": 0}, "--jobs 0"),
    ],
)
def test_what_a_machine_cannot_do(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LocalLauncher(**options)


SUITE = """
import signal, sys, transfer.suite.launch as launch
from pathlib import Path
from pretrain.common.stop_signals import heard
from transfer.suite.local import LocalLauncher, LocalProcess
from transfer.suite.plan import Job
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup
launch.GRACE_SECONDS = {grace}
folder = Path({folder!r})
job = Job("sleep", (sys.executable, "-c", {code!r}), folder, (folder / "never",))
quiet = lambda *words: None
with heard(always=[signal.SIGINT]):
    launch.run_jobs([job], LocalLauncher(gpus=[]), logs=folder / "logs", tell=quiet, show=quiet)
"""
# A command with a child of its own, as a data loader's worker, that notes how it was stopped.
COMMAND = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN) if {deaf} else None
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({note!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
try:
    time.sleep(60)
except KeyboardInterrupt:
    open({note!r}, "a").write(" saved")
"""


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited 30 s without success")


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("deaf", [False, True])
def test_stopping_the_suite_stops_its_commands(
    tmp_path: Path, number: signal.Signals, deaf: bool
) -> None:
    note = tmp_path / "note"
    code = COMMAND.format(note=str(note), deaf=deaf)
    text = SUITE.format(folder=str(tmp_path), code=code, grace=1.0 if deaf else 30.0)
    suite = subprocess.Popen([sys.executable, "-c", text], cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    wait_for(lambda: note.exists() and len(note.read_text().split()) == 2)
    suite.send_signal(number)
    suite.wait(30)
    words = note.read_text().split()
    assert words[2:] == ([] if deaf else ["saved"]), "asked first, killed only where it is deaf"
    wait_for(lambda: not any(map(alive, words[:2])))


def test_a_signal_while_a_command_starts_stops_it_too(
    make_job: Make, tmp_path: Path, tell: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[LocalProcess] = []

    def start(self: LocalLauncher, job: Job, log: Path, slot: int) -> LocalProcess:
        started.append(LocalProcess((sys.executable, "-c", "import time; time.sleep(60)"), log, {}))
        signal.raise_signal(signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(LocalLauncher, "start", start)
    with pytest.raises(Stopped), heard():
        run([make_job("job", "")], tmp_path, tell)
    assert started[0].poll() is not None


def test_a_finished_job_says_the_numbers_that_papers_print(
    make_job: Make, tmp_path: Path, tell: Callable, events: list
) -> None:
    """Of kNN's many metrics the one with the usual k is shown; it is not the first by name."""
    record = CHECKOUT / "docs/results/classification/groceries_knn/simclr/trial_0/record.json"
    result = tmp_path / "trial_0" / "record.json"
    copy = (
        "import os, shutil\n"
        f"os.mkdir({str(result.parent)!r})\n"
        f"shutil.copy({str(record)!r}, {str(result)!r})"
    )
    job = replace(make_job("knn", copy), results=(result,))
    assert run([job], tmp_path, tell) == {"knn": "done"}
    assert events[-1][2].endswith(" s, knn20_top1 28.76")
