"""The soak: growth of any kind is found, a flat command passes, and a process tree is counted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak import Command, Sample

FLAT = Sample(0.0, 900.0, 60, 4.0, 3, 0)


def samples(**grows: float) -> list[Sample]:
    """A noisy run of 10 minutes; each named quantity grows by so much over its second half."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(soak.SAMPLES):
        # An evaluation now and then holds more for a moment
        seconds, busy = number * 5.0, number % 7 == 0
        value = replace(
            FLAT,
            seconds=seconds,
            memory_mib=900 + 60 * busy + rng.normal(0, 5),
            open_files=60 + 3 * busy,
            evaluations=number // 7,
        )
        for name, growth in grows.items():
            value = replace(value, **{name: getattr(value, name) + growth * seconds / 300})
        found.append(value)
    return found


def test_a_flat_run_passes() -> None:
    assert soak.judge(samples()) == []


@pytest.mark.parametrize(
    ("name", "amount"),
    [("memory_mib", 40), ("open_files", 3), ("shared_mib", 2), ("processes", 1)],
)
def test_growth_of_each_kind_is_found(name: str, amount: float) -> None:
    (fault,) = soak.judge(samples(**{name: amount}))
    assert fault.startswith(f"{name} grew by")
    assert soak.judge(samples(**{name: -amount})) == []  # less is not a leak


def test_growth_in_the_warm_up_alone_is_allowed() -> None:
    found = samples()
    half = len(found) // 2
    early = [replace(v, memory_mib=v.memory_mib - 500 + 8 * i) for i, v in enumerate(found[:half])]
    assert soak.judge(early + found[half:]) == []


def test_too_short_a_run_shows_nothing() -> None:
    assert "samples" in soak.judge(samples()[:10])[0]
    assert "no evaluation within" in soak.judge([])[0]
    idle = [replace(value, evaluations=4) for value in samples()]
    assert "evaluations in the second half" in soak.judge(idle)[0]


HOLDER = """
import mmap, subprocess, sys, tempfile
files = [open(sys.argv[1]) for _ in range(40)]
shared = tempfile.TemporaryFile(dir="/dev/shm")
shared.truncate(3 << 20)
mapped = mmap.mmap(shared.fileno(), 3 << 20)
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
print("ready", flush=True)
input()
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs Linux' /proc and /dev/shm")
def test_files_memory_and_children_of_a_process_are_counted() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", HOLDER, __file__], **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        seen = soak.look(process.pid, 0.0, 0)
    finally:
        left = soak.end(process)
    assert left == 0
    assert seen.processes == 2
    assert 40 < seen.open_files < 60
    assert seen.shared_mib == 3  # open and mapped, counted once
    assert 2 < seen.memory_mib < 200
    assert soak.look(process.pid, 0.0, 0).processes == 0


def test_evaluations_are_counted_in_the_metrics(tmp_path: Path) -> None:
    command = Command([], "metrics.jsonl", "knn")
    assert command.evaluations(tmp_path) == 0
    rows = '{"step": 0, "knn20_top1": 1.0}\n{"step": 1, "loss": 2}\n{"step": 9, "knn20_top1": 3}\n'
    (tmp_path / "metrics.jsonl").write_text(rows)
    assert command.evaluations(tmp_path) == 2


def test_a_command_that_ends_is_a_fault_with_its_last_line(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit('the disk is full')")
    found = soak.watch(Command([str(script)], "m", "knn"), 5, tmp_path, tmp_path / "out")
    assert found["faults"] == ["it ended by itself with 1: the disk is full"]
