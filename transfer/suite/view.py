"""Shows a running suite: one line per job on a terminal, plain lines in a log, or JSON lines.

The views receive events and the running jobs, and write text to a stream. Times are in seconds.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TextIO

from pretrain.common.progress import Progress, clock, read_progress
from pretrain.common.verbosity import is_quiet
from transfer.suite.launch import FAILED, Running
from transfer.suite.plan import Job

REPAINT_SECONDS = 1.0
REPORT_SECONDS = 60.0  # between two lines about the same job, if lines are not repainted


@dataclass(frozen=True)
class JobProgress:
    """Describes the progress of a job; `eta` is for the trial's current stage, None while it is
    unknown.
    """

    job: str
    state: str
    seconds: float
    trial: int
    trials: int
    stage: str = ""
    done: int = 0
    total: int = 0
    eta: float | None = None
    last: str = ""

    def line(self) -> str:
        """Returns the progress as a line of text."""
        parts = [f"{self.job}: {self.state} {clock(self.seconds)}"]
        if self.trials > 1:
            parts.append(f"trial {self.trial + 1} of {self.trials}")
        if self.total:
            parts.append(f"{self.stage} {self.done}/{self.total} ({self.done / self.total:.0%})")
            parts.append("ETA ?" if self.eta is None else f"ETA {clock(self.eta)}")
        if self.last:
            parts.append(self.last)
        return ", ".join(parts)


def progress_of(item: Running) -> JobProgress:
    """Reads the progress from the job's progress.json and the records that it has written."""
    job = item.job
    bar = read_progress(job.progress_folder) or Progress("", 0, 0)
    done = sum(path.exists() for path in job.results) if job.trials > 1 else 0
    return JobProgress(
        job=job.name,
        state=item.process.state(),
        seconds=round(item.seconds, 1),
        trial=min(done, job.trials - 1),
        trials=job.trials,
        stage=bar.stage,
        done=bar.done,
        total=bar.total,
        eta=bar.eta,
        last=", ".join(f"{name} {_short(value)}" for name, value in bar.metrics.items()),
    )


def _short(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value


class TextView:
    """Prints lines about jobs; a terminal repaints the lines of running jobs below them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.painted, self.shown_at = 0, -math.inf
        self.reported: dict[str, float] = {}

    def tell(self, event: str, job: Job, detail: str) -> None:
        """Writes an event's line, which is not repainted."""
        self._erase()
        word = event.upper() if event == FAILED else event
        self._write(f"{job.name}: {word} {detail}\n")
        self.reported[job.name], self.shown_at = time.monotonic(), -math.inf

    def show(self, running: Sequence[Running], waiting: int) -> None:
        """Shows running jobs: repainted, or one line per minute and job; nothing with --quiet."""
        if is_quiet():
            return
        now = time.monotonic()
        if self.terminal and now - self.shown_at >= REPAINT_SECONDS:
            self.shown_at = now
            columns, rows = _size(self.stream)
            lines = [progress_of(item).line() for item in running][: rows - 2]
            lines += [f"{waiting} more wait"] * bool(waiting)
            self._erase()
            self._write("".join(f"{line[: columns - 1]}\n" for line in lines))
            self.painted = len(lines)
        for item in running if not self.terminal else ():
            if now - self.reported.get(item.job.name, now) >= REPORT_SECONDS:
                self.reported[item.job.name] = now
                self._write(f"{progress_of(item).line()}\n")

    def end(self, states: dict[str, str]) -> None:
        """Removes the repainted lines; the lines of the events above stay."""
        self._erase()

    def interrupted(self) -> None:
        """Says how to continue."""
        self._write("interrupted; run the same command again to continue\n")

    def _erase(self) -> None:
        if self.painted:
            self._write(f"\033[{self.painted}F\033[J")
        self.painted = 0

    def _write(self, text: str) -> None:
        _write(self.stream, text)


class JsonView:
    """Prints one JSON object per line: events, progress of running jobs, and an end with all
    states.
    """

    def __init__(self, stream: TextIO | None = None, every_seconds: float = 10.0) -> None:
        self.stream, self.every_seconds = stream or sys.stdout, every_seconds
        self.shown_at = -math.inf

    def tell(self, event: str, job: Job, detail: str) -> None:
        """Writes {"event": ..., "job": ..., "detail": ...}."""
        self._write({"event": event, "job": job.name, "detail": detail})

    def show(self, running: Sequence[Running], waiting: int) -> None:
        """Writes {"event": "progress", ...} for each job, with the fields of `JobProgress`."""
        if time.monotonic() - self.shown_at < self.every_seconds:
            return
        self.shown_at = time.monotonic()
        for item in running:
            self._write({"event": "progress", **asdict(progress_of(item))})

    def end(self, states: dict[str, str]) -> None:
        """Writes {"event": "end", "states": {job: done, failed or skipped}}."""
        self._write({"event": "end", "states": states})

    def interrupted(self) -> None:
        """Writes {"event": "interrupted"}; the same command continues later."""
        self._write({"event": "interrupted"})

    def _write(self, content: dict) -> None:
        _write(self.stream, json.dumps({"time": round(time.time(), 1), **content}) + "\n")


def _size(terminal: TextIO) -> tuple[int, int]:
    """Returns columns and rows; default values if the terminal does not say (0) or is gone."""
    try:
        size = os.get_terminal_size(terminal.fileno())
    except OSError:
        return 80, 24
    return size.columns or 80, size.lines or 24


def _write(stream: TextIO, text: str) -> None:
    """Writes text; a closed terminal or a reader that has ended does not stop the jobs."""
    with suppress(OSError):
        stream.write(text)
        stream.flush()
