"""A folder's lock between two holders; each opening of the file is a holder of its own."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest

from pretrain.common.locks import locked


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
