"""Runs the files `inside_*.py` of this folder: tests for processes that see a pretended GPU.

Each runs in a separate pytest with the no-op CUDA runtime.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.pretend_cuda import ROOT
from tests.gpu.runtime.build import environment, missing

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("inside_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_over_the_runtime(file: Path) -> None:
    run(file, "not slow")


@pytest.mark.slow
def test_the_slow_ones_over_the_runtime() -> None:
    run(FOLDER / "inside_transfer_faults.py", "slow")


def run(file: Path, marks: str) -> None:
    if reason := missing():
        pytest.skip(reason)
    options = ["-q", "-p", "no:cacheprovider", "-m", marks]
    command = [sys.executable, "-m", "pytest", *options, str(file)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-500:]
