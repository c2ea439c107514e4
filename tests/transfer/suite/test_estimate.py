"""Probes on real processes with a known speed, and the sums made of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest

from transfer.suite import estimate
from transfer.suite.check import Checked, Checks
from transfer.suite.estimate import Estimate, estimate_jobs, extrapolate, probe_command, timed_probe
from transfer.suite.plan import Job
from transfer.suite.plan_table import plan_text
from transfer.suite.probe import Measured, Stage, _is_enough, probe

SLOW_START = """
import sys, time, os
from pretrain.common.progress import ProgressBar, keep_progress
assert sys.argv[1] == "--output" and not os.path.exists(sys.argv[2])
open({note!r}, "w").write(f"{{os.getpid()}} {{sys.argv[2]}}")
hold = bytearray(200 * 2**20)
time.sleep(0.5)
with keep_progress(sys.argv[2]):
    for image in ProgressBar(range(20), desc="check images"):
        time.sleep(0.1)
    for step in ProgressBar(range({steps}), desc="train"):
        time.sleep(1.0 if step == 0 else 0.05)
"""


def command(tmp_path: Path, steps: int) -> tuple[str, ...]:
    code = SLOW_START.format(note=str(tmp_path / "note"), steps=steps)
    return (sys.executable, "-c", code, "--output", "never")


def test_a_probe_times_a_step_and_leaves_nothing(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = probe(command(tmp_path, 100_000), "train", seconds=2)
    assert time.monotonic() - begin < 15
    (stage,) = found.stages
    assert (stage.name, stage.total) == ("train", 100_000)
    assert 0.05 <= stage.unit_seconds < 0.1, "the slow first step is not in it"
    assert 2.4 < found.start_seconds < 8 and found.seconds is None and not found.failure
    if not found.on_gpu:
        assert 200 * 2**20 < found.memory_bytes < 400 * 2**20
    pid, folder = (tmp_path / "note").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert not Path(folder).parent.exists()


def terminate_once_there(note: Path) -> None:
    """Sends SIGTERM to this process when the command has begun."""
    while not note.exists() or not note.read_text():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_terminated_probe_leaves_nothing(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    Thread(target=terminate_once_there, args=(tmp_path / "note",)).start()
    with pytest.raises(KeyboardInterrupt):
        probe(command(tmp_path, 100_000), "train", seconds=60)
    assert signal.getsignal(signal.SIGTERM) == handler
    pid, folder = (tmp_path / "note").read_text().split()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)
    assert not Path(folder).parent.exists()


def timed(total: int, *seconds: float) -> Stage:
    """A bar that moves by ten units in each of these durations, in seconds."""
    bar = Stage("train", total, 0.0, 0, 0.0, 0)
    for number in range(len(seconds)):
        bar.note(sum(seconds[: number + 1]), 10 * (number + 1))
    return bar


def test_a_steady_rate_ends_a_probe_before_its_time() -> None:
    steady = Measured([timed(10_000, *[1.0] * 9)])
    assert not _is_enough(steady, 9.0, seconds=30) and _is_enough(steady, 11.0, seconds=30)
    prepared = Measured([timed(10_000, *[1.0] * 5, *[1.5] * 4)])  # by workers: faster at first
    assert not _is_enough(prepared, 11.0, seconds=30) and _is_enough(prepared, 31.0, seconds=30)
    few = Measured([timed(10_000, *[2.0] * 5)])
    assert not _is_enough(few, 11.0, seconds=30)
    short = Measured([timed(200, *[1.0] * 9)])  # the rest of it takes 11 s: what follows is seen
    assert not _is_enough(short, 11.0, seconds=30)


def test_a_command_that_ends_within_the_probe_is_timed_whole(tmp_path: Path) -> None:
    found = probe(command(tmp_path, 3), seconds=20)
    assert 3.6 <= found.seconds < 9


def test_a_failing_command_says_why() -> None:
    found = probe((sys.executable, "-c", "raise SystemExit('no such thing')", "--output", "x"))
    assert found.failure == "no such thing" and found.seconds is None


def stage(name: str, total: int, unit_seconds: float) -> Stage:
    return Stage(name, total, begin=5.0, first=2, last=5.0 + 10 * unit_seconds, done=12, updates=4)


def job(kind: str, trials: int = 1, **more: object) -> Job:
    results = tuple(Path(f"never_{trial}") for trial in range(trials))
    return Job(f"t/{kind}", (), Path("out"), results, kind=kind, trials=trials, **more)


def test_detection_is_iterations_and_test_images_for_each_trial() -> None:
    facts = Checked(iterations=24000, batch_size=16, test_images=4952, evaluations=2)
    found = extrapolate(job("det", 5), facts, Measured([stage("train", 24000, 0.5)], 20.0))
    assert found.seconds == pytest.approx(5 * (20 + 0.5 * (24000 + 2 * 4952 / 16)))


def test_random_crops_are_steps_and_tests_of_all_epochs() -> None:
    facts = Checked(iterations=9000, test_images=500, evaluations=90)
    stages = [stage("epoch 1 of 90", 100, 0.5), stage("testing on val", 4, 0.25)]
    found = extrapolate(job("cls", 2), facts, Measured(stages, 20.0))
    assert found.seconds == pytest.approx(2 * (20 + 0.5 * 9000 + 90 * 4 * 0.25))
    found = extrapolate(job("cls"), facts, Measured(stages[:1], 20.0))
    assert found.seconds == pytest.approx(20 + 0.5 * 9000) and "and the tests" in found.note


def test_trials_that_have_a_record_cost_nothing(tmp_path: Path) -> None:
    (tmp_path / "0").touch()
    results = tuple(tmp_path / str(trial) for trial in range(3))
    part = Job("t/det", (), tmp_path, results, kind="det", trials=3)
    facts = Checked(iterations=100, batch_size=1)
    measured = Measured([stage("train", 100, 0.1)])
    assert extrapolate(part, facts, measured).seconds == pytest.approx(2 * 10)


def test_features_are_extracted_once_for_all_trials() -> None:
    facts = Checked(batch_size=256, train_images=1000, test_images=600)
    measured = Measured([stage("features of a", 4, 2.0)], 10.0)
    found = extrapolate(job("cls", 3), facts, measured)
    assert found.seconds == pytest.approx(10 + 2.0 * (4 + 3))
    assert "not included" in found.note
    # untrained weights are other ones in each trial
    found = extrapolate(job("cls", 3, weights="random"), facts, measured)
    assert found.seconds == pytest.approx(3 * (10 + 2.0 * (4 + 3)))
    assert "all trials" not in found.note


def test_pretraining_is_all_its_steps() -> None:
    found = extrapolate(job("pretrain"), Checked(), Measured([stage("pretrain", 500, 0.2)], 4.0))
    assert found.seconds == pytest.approx(4 + 100)


@pytest.mark.parametrize(
    "measured, note",
    [
        (Measured(failure="out of memory"), "the probe failed: out of memory"),
        (Measured([Stage("train", 9, 1.0, 0, 1.0, 0)]), "nothing finished within the probe"),
    ],
)
def test_what_was_not_measured_is_not_guessed(measured: Measured, note: str) -> None:
    found = extrapolate(job("det"), Checked(iterations=9), measured)
    assert found.seconds is None and note in found.note


def test_one_probe_for_all_checkpoints_of_a_task(tmp_path: Path) -> None:
    done = tmp_path / "record.json"
    done.touch()
    jobs = [
        Job("boxes/a", (), tmp_path, (tmp_path / "x",), kind="det", config="c.yaml", weights="a"),
        Job("boxes/b", (), tmp_path, (tmp_path / "y",), kind="det", config="c.yaml", weights="b"),
        Job("knn/a", (), tmp_path, (tmp_path / "z",), kind="cls", config="k.yaml", weights="a"),
        Job("knn/b", (), tmp_path, (done,), kind="cls", config="k.yaml", weights="b"),
    ]
    facts = Checked("resnet50", iterations=100, batch_size=1)
    checks = Checks({"boxes/a": facts, "boxes/b": facts}, {"knn/a": ("knn", "imagenet is missing")})
    probed: list[tuple[str, ...]] = []

    def run(words: tuple[str, ...], timed: str, count: int) -> Measured:
        assert timed == "train" and count == 1
        probed.append(words)
        return Measured([stage("train", 100, 0.1)], 0.0, memory_bytes=3 * 2**30, on_gpu=True)

    said: list[str] = []
    found = estimate_jobs(jobs, checks, run, said.append)
    assert said == ["probing boxes/a (1 of 1; --probe-seconds 0 leaves them out)"]
    assert len(probed) == 1 and "--trials" not in probed[0]
    assert found["boxes/a"] == found["boxes/b"] and found["knn/b"] == Estimate("done")
    text = plan_text(jobs, found)
    assert "imagenet is missing" in text and "3.0 GiB gpu" in text
    assert text.endswith("3 of 4 jobs to do; 2 of them estimated, 20 s one after the other")


def test_a_plan_says_if_many_checkpoints_have_few_trials(tmp_path: Path) -> None:
    def plan_of(rows: str, kind: str, trials: int) -> str:
        jobs = [Job(f"boxes/{row}", (), tmp_path, (), kind=kind, trials=trials) for row in rows]
        return plan_text(jobs, {job.name: Estimate("todo") for job in jobs})

    said = "boxes: 4 checkpoints with 3 trials each: all pairs are corrected for; 5 trials"
    assert said in plan_of("abcd", "det", 3)
    assert "boxes: 4 checkpoints with 1 trial each" in plan_of("abcd", "det", 1)
    for quiet in (plan_of("abc", "det", 3), plan_of("abcd", "det", 5), plan_of("abcd", "cls", 1)):
        assert "checkpoints with" not in quiet


def test_weights_that_a_job_will_make_are_stood_in_for(tmp_path: Path) -> None:
    later = dict(needs=("convert/a",), weights=str(tmp_path / "a.pkl"), config="knn.yaml")
    words = probe_command(job("cls", **later), "resnet18")
    assert words[words.index("--weights") + 1] == "random"
    assert words[-6:-2] == ("BACKBONE.NAME", "resnet18", "CACHE_DIR", "")
    (tmp_path / "a.pkl").touch()
    assert str(tmp_path / "a.pkl") in probe_command(job("cls", **later), "resnet18")


def test_many_probes_share_the_time_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "probe", lambda command, stage, seconds: seconds)
    times = [timed_probe(None)((), "", count) for count in (1, 4, 12, 40)]
    assert times == [30.0, 30.0, 10.0, 5.0]
    assert timed_probe(7.0)((), "", 40) == 7.0 and timed_probe(0.0) is None
