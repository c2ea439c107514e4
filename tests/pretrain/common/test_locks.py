"""A folder's lock between two holders; each opening of the file is a holder of its own."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError
from pretrain.common.locks import locked, only_one


def test_the_second_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    events: list[str] = []

    def second() -> None:
        with locked(tmp_path, "waiting here"):
            events.append("second")

    thread = threading.Thread(target=second)
    with locked(tmp_path):
        thread.start()
        thread.join(timeout=0.3)
        events.append("first")
    thread.join(timeout=10)
    assert events == ["first", "second"] and "waiting here" in caplog.text


def test_an_error_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError), locked(tmp_path):
        raise ValueError
    with locked(tmp_path):
        pass


def test_a_folder_serves_one(tmp_path: Path) -> None:
    file = tmp_path / "new" / "suite.lock"
    code = (
        "from pathlib import Path; from pretrain.common.locks import only_one\n"
        f"with only_one(Path({str(file)!r}), 'in use'): pass"
    )
    other = lambda: subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True
    )
    with only_one(file, "in use"):
        assert other().stderr.endswith("InputError: in use\n")
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1, close_fds=False)
    assert other().returncode == 1, "a process that was started meanwhile holds it too"
    child.communicate(b"\n")
    assert other().returncode == 0


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="suite.lock cannot be written: "):
        with only_one(tmp_path / "file" / "suite.lock", "in use"):
            pass
