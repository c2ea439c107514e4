"""What a command's progress bars say: the tail of a log file in, done, total and time left out.

The bars are tqdm's (pretrain/common/logs.py), written to a log with carriage returns:
`train:  12%|#2   | 120/1000 [00:30<03:40,  4.00it/s, loss=0.83]`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

TAIL_BYTES = 8192
BAR = re.compile(
    r"(?P<stage>[^|\r\n]*?):\s+\d+%\|[^|]*\|\s*(?P<done>\d+)/(?P<total>\d+)\s+"
    r"\[(?P<elapsed>[\d:]+)<(?P<left>[\d:?]+)(?:,\s*(?P<rest>[^\]]*))?\]"
)


@dataclass(frozen=True)
class Bar:
    """One state of one bar; times in seconds, `left` None while the rate is unknown."""

    stage: str
    done: int
    total: int
    elapsed: float
    left: float | None
    note: str = ""  # what stands beside the rate: losses, images per second


def parse_bar(line: str) -> Bar | None:
    """The bar in a line, or None."""
    match = BAR.search(line)
    if match is None:
        return None
    note = (match["rest"] or "").partition(",")[2].strip()
    left = None if "?" in match["left"] else _seconds(match["left"])
    stage, done, total = match["stage"].strip(), int(match["done"]), int(match["total"])
    return Bar(stage, done, total, _seconds(match["elapsed"]), left, note)


def tail(log: Path, start: int = 0) -> list[str]:
    """The last non-empty lines of a log; a progress bar's states count as lines of their own.

    `start`: byte where this run's output begins; logs are appended to.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(start, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def last_line(log: Path) -> str:
    """The last line of a log, whatever it is."""
    lines = tail(log)
    return lines[-1] if lines else "no output"


def last_bar(log: Path, start: int = 0) -> Bar | None:
    """The latest state of the latest bar in a log, from byte `start` on."""
    for line in reversed(tail(log, start)):
        bar = parse_bar(line)
        if bar is not None:
            return bar
    return None


def _seconds(clock: str) -> float:
    seconds = 0
    for part in clock.split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)
