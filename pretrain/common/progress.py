"""Progress bars, and `progress.json`: the progress of a long command, for people and programs.

On a terminal a bar is tqdm's. In a file, where a bar that is drawn again and again would leave one
line of thousands of characters, it is a plain line now and then: what is done, the rate and the
time left.

A command that runs inside `keep_progress(OUTPUT)` keeps OUTPUT/progress.json while its bars move. A
suite, a probe and live views read that file; the bars on stderr are for people alone.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretrain.common.errors import InputError
from pretrain.common.regular_file import MEGABYTE, read_regular
from pretrain.common.safe_json import read_json
from pretrain.common.temporaries import sweep
from pretrain.common.verbosity import is_quiet

FILE_NAME = "progress.json"
# The environment carries both to the processes that a command launches.
FOLDER_VARIABLE = "MSCN_PROGRESS_FOLDER"
PERIOD_VARIABLE = "MSCN_PROGRESS_SECONDS"  # a probe that lasts seconds wants more than one state
PERIOD_SECONDS = 1.0
LINE_SECONDS = 30.0  # between two plain lines about one bar
SHORT_SECONDS = 5.0  # a stage that ended sooner leaves no line
DRAWN_SECONDS = 0.5  # between two states of a bar on a terminal


@dataclass(frozen=True)
class Progress:
    """Describes one state of the latest progress bar of a command; times are in seconds.

    Attributes:
        stage: the present work, such as "train".
        done, total: in `unit`; total is 0 if it is not known.
        rate: units per second; None while it is not known.
        eta: time until the stage ends; None while it is not known.
        elapsed: time since the stage began, in this process.
        metrics: values that the bar shows next to the rate, such as the loss.
        time: when the state was written, in seconds since 1970.
    """

    stage: str
    done: int
    total: int
    unit: str = "it"
    rate: float | None = None
    eta: float | None = None
    elapsed: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    time: float = 0.0


@contextmanager
def keep_progress(folder: str | Path, results: Sequence[Path] = ()) -> Iterator[None]:
    """Keeps progress.json up to date: inside, the progress bars of this process, and of those it
    launches, update `folder`/progress.json.

    After bad input, the file is as an earlier command left it; if there was none, neither the file
    nor an empty folder is left.

    Args:
        results: the files that the command will write. If all exist and none is written, the run
            was already finished, and the progress file is restored.
    """
    file = Path(folder) / FILE_NAME
    was_there = os.path.exists(folder)
    there, earlier = _stamps(results), _content(file)
    before = os.environ.get(FOLDER_VARIABLE)
    os.environ[FOLDER_VARIABLE] = str(folder)
    sweep(Path(folder), FILE_NAME)
    try:
        yield
        if earlier is not None and there and there == _stamps(results):
            _write(file, earlier)
    except InputError:
        if earlier is not None:
            _write(file, earlier)
        else:
            forget_progress(Path(folder))
        if not was_there:
            with suppress(OSError):  # it is not empty
                Path(folder).rmdir()
        raise
    finally:
        del os.environ[FOLDER_VARIABLE]
        if before is not None:
            os.environ[FOLDER_VARIABLE] = before


def progress_folder(output: str | Path, first_trial: int = 0) -> Path:
    """Returns the folder for the state of a command that begins with `first_trial`.

    Several commands may share an output folder if each has different trials.
    """
    return Path(output) / f"trial_{first_trial}" if first_trial else Path(output)


def read_progress(folder: Path) -> Progress | None:
    """Returns the latest state of the command that writes into `folder`; None if there is none
    yet.
    """
    try:
        content = read_json(folder / FILE_NAME)
        return Progress(**content)
    except (
        OSError,
        ValueError,
        TypeError,
    ):  # missing, or of a version with different fields
        return None


def forget_progress(folder: Path) -> None:
    """Removes the state that an earlier command left."""
    with suppress(OSError):
        (folder / FILE_NAME).unlink()


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{FILE_NAME}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        with suppress(OSError):
            temporary.unlink()


def _content(file: Path) -> bytes | None:
    try:
        return read_regular(file, MEGABYTE)
    except OSError:
        return None


def _stamps(results: Sequence[Path]) -> list[int]:
    """When each file was written; an empty list if one of them is missing."""
    try:
        return [path.stat().st_mtime_ns for path in results]
    except OSError:
        return []


class _Nowhere(io.TextIOBase):
    """Where tqdm draws what nobody sees."""

    def write(self, text: str) -> int:
        return len(text)


class ProgressBar(tqdm):
    """Is tqdm's bar, or plain lines if `file` (stderr) is not a terminal. It also keeps the
    progress file of its command; with --quiet it keeps only this file.

    A plain line comes every LINE_SECONDS, and when a stage of SHORT_SECONDS or more has ended, but
    for one with `leave=False`, which leaves no trace on a terminal either.

    If the file cannot be written, the command continues, because the file is only for watching.
    """

    def __init__(self, items: Iterable[Any] | None = None, **options: Any) -> None:
        self._metrics: dict[str, Any] = {}
        self._written_at = 0.0
        self._folder = os.environ.get(FOLDER_VARIABLE, "")
        self._period = float(os.environ.get(PERIOD_VARIABLE, PERIOD_SECONDS))
        stream = options.get("file") or sys.stderr
        self._lines: Any = None if stream.isatty() or is_quiet() else stream
        self._began = self._told_at = time.monotonic()
        self._ends_with_line = options.get("leave", True)
        if not stream.isatty() or is_quiet():
            options["file"] = _Nowhere()
        options.setdefault("mininterval", DRAWN_SECONDS)
        super().__init__(items, **options)
        # tqdm's clock is the time of day: if that is set back, a bar stops and its times are wrong
        self._time = time.monotonic
        self.start_t = self.last_print_t = self._time()
        self._keep()

    def __iter__(self) -> Iterator[Any]:
        """Yields the items and moves the bar each time; tqdm's own loop moves it less often."""
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def update(self, n: float | None = 1) -> bool | None:
        """Moves the bar by `n`."""
        shown = super().update(n)
        now = time.monotonic()
        if now - self._written_at >= self._period:
            self._keep()
        ended = bool(self.total) and self.n >= self.total  # then `close` writes the line
        if now - self._told_at >= LINE_SECONDS and not ended:
            self._tell(now)
        return shown

    def set_postfix(
        self, ordered_dict: Mapping[str, Any] | None = None, refresh: bool = True, **values: Any
    ) -> None:
        """Shows names and values next to the rate."""
        self._metrics = {**(ordered_dict or {}), **values}
        super().set_postfix(ordered_dict, refresh, **values)

    def close(self) -> None:
        """Ends the bar; the file keeps its last state."""
        if not self.disable and self.n:
            self._keep()
            now = time.monotonic()
            if self._ends_with_line and now - self._began >= SHORT_SECONDS:
                self._tell(now, ended=True)
        super().close()

    def _tell(self, now: float, ended: bool = False) -> None:
        """Writes a plain line."""
        self._told_at = now
        if self._lines is None or self.disable:
            return
        state = self._state()
        done, total = self._amount(state.done), self._amount(state.total)
        words = [f"{state.stage}: {done}{f' of {total}' if state.total else ''} {state.unit}"]
        if state.total and state.done < state.total:
            words[0] += f" ({100 * state.done // state.total} %)"
        if state.rate:
            words.append(_rate(state.rate, state.unit, self._amount))
        if ended:
            words.append(f"took {clock(state.elapsed)}")
        elif state.eta is not None:
            words.append(f"{clock(state.eta)} left")
        words += [f"{name} {value}" for name, value in self._metrics.items()]
        with suppress(OSError, ValueError):  # a reader that has ended, a stream that is closed
            self._lines.write(f"{time.strftime('%H:%M:%S')}   {', '.join(words)}\n")
            self._lines.flush()

    def _amount(self, number: float) -> str:
        return self.format_sizeof(number) if self.unit_scale else f"{number:,.0f}"

    def _keep(self) -> None:
        if self.disable or not self._folder:
            return
        self._written_at = time.monotonic()
        _write(Path(self._folder) / FILE_NAME, json.dumps(asdict(self._state())).encode())

    def _state(self) -> Progress:
        facts = self.format_dict
        elapsed, moved = facts["elapsed"], self.n - self.initial
        rate = facts["rate"] or (moved / elapsed if moved > 0 and elapsed > 0 else None)
        left = (self.total - self.n) / rate if rate and self.total else None
        return Progress(
            stage=(self.desc or "").removesuffix(": "),
            done=int(self.n),
            total=int(self.total or 0),
            unit=self.unit,
            rate=rate,
            eta=left,
            elapsed=elapsed,
            metrics={name: _plain(value) for name, value in self._metrics.items()},
            time=time.time(),
        )


def _rate(rate: float, unit: str, amount: Callable[[float], str]) -> str:
    """Returns "3.1 it/s", or seconds for one if it takes longer than a second."""
    if rate >= 1:
        return f"{amount(rate) if rate >= 100 else f'{rate:.1f}'} {unit}/s"
    return f"{1 / rate:.1f} s/{unit}"


def clock(seconds: float) -> str:
    """Returns a duration as text: "42 s", "3 min 05 s" or "2 h 07 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _plain(value: Any) -> Any:
    """Returns the number in a text, if it is one, so that programs do not have to parse it."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
