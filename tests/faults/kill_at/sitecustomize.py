"""Kills this Python process at one of its file operations; Python imports it at its start if this
folder is on PYTHONPATH.

$KILL_AT is "OPERATION NUMBER": `before` or `after` the NUMBER-th rename, or `torn`: in the
NUMBER-th fsync, of a file that is cut to half its size, as a crash in the middle of writing
leaves it.
"""

from __future__ import annotations

import os
import signal
from typing import Any

operation, _, number = os.environ.get("KILL_AT", "none 0").partition(" ")
left = int(number)
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
        if left == 1:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
        _kill_at_last()
    sync(handle)


os.replace, os.fsync = _replace, _fsync  # type: ignore[assignment]
