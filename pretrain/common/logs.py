"""Log lines, metrics files and progress bars; only the main process writes."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.command_names import as_started
from pretrain.common.distributed import is_main
from pretrain.common.errors import named_file
from pretrain.common.loggers import DEFAULT, Loggers
from pretrain.common.printable import PrintableFormatter
from pretrain.common.progress import ProgressBar
from pretrain.common.run_files import METRICS
from pretrain.common.safe_json import parse_json
from pretrain.common.verbosity import is_quiet, is_verbose

Item = TypeVar("Item")

FORMAT = "%(asctime)s %(levelname).1s %(message)s"
VERBOSE_FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"
OWN = ("pretrain", "transfer")
CHATTY = ("fvcore", "httpx")  # libraries whose log lines a user can do nothing about

logger = logging.getLogger(__name__)


def setup_logging(output_dir: str | Path | None = None) -> None:
    """Logs to stderr, and to `output_dir/log.txt`; other ranks than 0 log warnings only.

    With --quiet stderr gets warnings only. With --verbose ($MSCN_LOG set to DEBUG) each line names
    its module, and this project's own loggers also say what is too long for a log that is read: the
    name of every tensor that keeps its initialisation, for example.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if is_quiet():
        handlers[0].setLevel(logging.WARNING)
    if output_dir is not None and is_main():
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(LogFile(Path(output_dir) / "log.txt", encoding="utf-8"))
    verbose = is_verbose()
    for handler in handlers:
        handler.setFormatter(LogFormatter(VERBOSE_FORMAT if verbose else FORMAT, "%H:%M:%S"))
    level = logging.INFO if is_main() else logging.WARNING
    logging.basicConfig(level=level, handlers=handlers, force=True)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if verbose else logging.WARNING)
    for name in OWN:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose and is_main() else logging.NOTSET)


class LogFormatter(PrintableFormatter):
    """Writes printable log messages that name the commands as the user can start them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Returns the message with its time and level, in the formatter's format."""
        record.message = as_started(record.message)
        return super().formatMessage(record)


class LogFile(logging.FileHandler):
    """Is a log file that a full disk cuts off with one warning, instead of a traceback for each
    line: a run never ends because of its log.
    """

    _cut_off = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Says once that the file lacks lines."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._cut_off:
            self._cut_off = True
            logger.warning("%s lacks lines from here on: %s", self.baseFilename, error.strerror)

    def close(self) -> None:
        """Closes the file; lines for which there is no room are lost."""
        with suppress(OSError):
            super().close()


class MetricsWriter:
    """Appends scalars to a file of JSON lines, and gives them to the run's loggers.

    Each line is one JSON object with the step first; a value that is not finite becomes null.
    """

    def __init__(
        self,
        output_dir: str | Path,
        resume_step: int = -1,
        *,
        file_name: str = METRICS,
        step_name: str = "step",
        loggers: str = DEFAULT,
    ) -> None:
        """
        Args:
            resume_step: rows that a killed run recorded after this step are dropped; -1 drops all
                rows. Unreadable rows are also dropped, and a warning counts them.
            file_name, step_name: Detectron2 calls them metrics.json and iteration.
            loggers: names of `pretrain.common.loggers`, with commas between them; "": none.
        """
        self._step_name = step_name
        self._loggers = None
        self._file = None
        self._path = path = Path(output_dir) / file_name
        if not is_main():
            return
        _drop_after(path, resume_step, step_name)
        self._file = path.open("a", encoding="utf-8")
        self._loggers = Loggers(loggers, Path(output_dir), resume_step)

    def write(self, step: int, **scalars: float) -> None:
        """Records scalars at `step`."""
        if self._file is None or self._loggers is None:
            return
        values = {name: _jsonable(value) for name, value in scalars.items()}
        with named_file(self._path):
            self._file.write(json.dumps({self._step_name: step, **values}) + "\n")
            self._file.flush()
        finite = {name: value for name, value in values.items() if value is not None}
        self._loggers.write(step, finite)

    def flush(self) -> None:
        """Makes what was written survive a kill from now on; loggers write in the background."""
        if self._file is not None and self._loggers is not None:
            with named_file(self._path):
                self._file.flush()
                os.fsync(self._file.fileno())
            self._loggers.flush()

    def close(self) -> None:
        """Flushes and closes the file, and ends the run in its loggers."""
        if self._file is not None:
            with named_file(self._path):
                self._file.close()
        if self._loggers is not None:
            self._loggers.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(path: str | Path, step_name: str = "step") -> list[dict[str, Any]]:
    """Returns the rows of a metrics file: a step, and numbers or null by name. Other lines are left
    out, with a warning that counts them, but for a last one that a kill has cut off.
    """
    rows, bad = [], []
    for number, line in enumerate(lines := Path(path).read_bytes().splitlines()):
        row = _row(line, step_name)
        if row is not None:
            rows.append(row)
        elif number < len(lines) - 1:
            bad.append(number + 1)
    if bad:
        shown = ", ".join(map(str, bad[:3])) + (", ..." if len(bad) > 3 else "")
        logger.warning("%s: %d lines cannot be read and are left out (%s)", path, len(bad), shown)
    return rows


def progress(items: Iterable[Item] | None = None, desc: str = "", **options: Any) -> ProgressBar:
    """Returns a progress bar with rate and ETA on stderr and in progress.json, on the main process
    only.

    If stderr is not a terminal, it is a plain line now and then, see `ProgressBar`.
    """
    return ProgressBar(items, desc=desc, dynamic_ncols=True, disable=not is_main(), **options)


def _row(line: bytes, step_name: str) -> dict[str, Any] | None:
    """Returns the row of a line, with null for numbers that are not finite; None if the line is not
    a row of a log."""
    try:
        row = parse_json(line)
    except ValueError:
        return None
    step = row.get(step_name) if isinstance(row, dict) else None
    if not isinstance(step, int) or isinstance(step, bool):
        return None
    if not all(value is None or isinstance(value, (int, float)) for value in row.values()):
        return None
    return {name: None if value is None else _jsonable(value) for name, value in row.items()}


def _drop_after(path: Path, step: int, step_name: str) -> None:
    if path.is_file():
        kept = [row for row in read_metrics(path, step_name) if row[step_name] <= step]
        atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _jsonable(value: float) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value
    return number if math.isfinite(number) else None
