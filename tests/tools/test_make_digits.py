"""tools/make_digits.py: exit status, messages, quick usage errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.make_digits import main

ROOT = Path(__file__).parents[2]
SMALL = ["--classification", "10", "0", "0", "--scenes", "1", "0", "0"]


def test_writes_then_says_that_nothing_is_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--output", str(tmp_path / "digits"), *SMALL]
    assert main(command) == 0
    assert "wrote the digits" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.png"))) == 10
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_another_set_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--output", str(tmp_path / "digits"), *SMALL]
    assert main(command) == 0
    assert main([*command, "--seed", "1"]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith("error: ") and error.count("\n") == 1 and "seed 0 (requested: 1)" in error
    )


def test_usage_error_in_a_subprocess() -> None:
    result = subprocess.run(
        [sys.executable, "tools/make_digits.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2 and "--output" in result.stderr
    assert "Traceback" not in result.stderr
