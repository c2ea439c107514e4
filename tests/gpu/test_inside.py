"""Runs the files `inside_*.py` of this folder: tests for processes that see a pretended GPU.

All run in one separate pytest with the no-op CUDA runtime, because a process takes longer to start
than most of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.gpu.pretend_cuda import ROOT
from tests.gpu.runtime.build import environment, missing

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("inside_*.py"))
Outcomes = dict[str, list[str]]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcomes of all files' tests that are not slow."""
    return outcomes(FILES, "not slow", tmp_path_factory.mktemp("inside") / "outcomes.xml")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_over_the_runtime(file: Path, quick: Outcomes) -> None:
    assert_passed(quick[file.stem])


@pytest.mark.slow
def test_the_slow_ones_over_the_runtime(tmp_path: Path) -> None:
    file = FOLDER / "inside_transfer_faults.py"
    assert_passed(outcomes([file], "slow", tmp_path / "outcomes.xml")[file.stem])


def outcomes(files: list[Path], marks: str, report: Path) -> Outcomes:
    """For each file's stem, the outcome of each of its tests: `passed`, or why not. A file of which
    no test has run is not a key."""
    if reason := missing():
        pytest.skip(reason)
    options = ["-q", "-p", "no:cacheprovider", "-m", marks, f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    done = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True)
    finished = done.returncode in (0, 1)  # all passed, or some failed
    assert finished and report.is_file(), done.stdout[-6000:] + done.stderr[-2000:]
    found: Outcomes = {}
    for test in ElementTree.parse(report).iter("testcase"):
        said = [
            f"{test.get('name')}: {child.get('message')}\n{child.text}"
            for child in test
            if child.tag in ("failure", "error", "skipped")
        ]
        found.setdefault(str(test.get("classname")).split(".")[-1], []).append(
            "\n".join(said) or "passed"
        )
    return found


def assert_passed(tests: list[str]) -> None:
    """Skipped tests did not pass either: what they need is there if the runtime is."""
    assert tests and set(tests) == {"passed"}, "\n".join(t for t in tests if t != "passed")[-6000:]
