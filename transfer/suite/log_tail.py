"""The last line of a command's log."""

from __future__ import annotations

from pathlib import Path

TAIL_BYTES = 8192


def last_line(log: Path) -> str:
    """Returns the last line of a log; each state of a progress bar counts as a line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]
    return lines[-1] if lines else "no output"
