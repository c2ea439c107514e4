"""Kills this Python process at one of its file operations.

Python imports this file at its start if its folder is on PYTHONPATH. $KILL_AT is "OPERATION
NUMBER". OPERATION is `before` or `after` the NUMBER-th rename, or `torn`: then it kills in the
NUMBER-th fsync, and cuts off half of what was written to that file since its last fsync, as a crash
in the middle of writing does.
"""

from __future__ import annotations

import os
import signal
from typing import Any

operation, _, number = os.environ.get("KILL_AT", "none 0").partition(" ")
left = int(number)
synced: dict[tuple[int, int], int] = {}  # bytes of each file that no crash takes away
rename, sync = os.replace, os.fsync


def _kill_at_last() -> None:
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _replace(source: Any, target: Any) -> None:
    if operation == "before":
        _kill_at_last()
    rename(source, target)
    if operation == "after":
        _kill_at_last()


def _fsync(handle: int) -> None:
    if operation == "torn":
        found = os.fstat(handle)
        file = found.st_dev, found.st_ino
        if left == 1:
            before = min(synced.get(file, 0), found.st_size)
            os.ftruncate(handle, before + (found.st_size - before) // 2)
        _kill_at_last()
        synced[file] = found.st_size
    sync(handle)


os.replace, os.fsync = _replace, _fsync  # type: ignore[assignment]
