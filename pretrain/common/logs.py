"""Log lines, metrics files and progress bars; only the main process writes."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.distributed import is_main
from pretrain.common.printable import PrintableFormatter
from pretrain.common.progress import ProgressBar
from pretrain.common.safe_json import parse_json

Item = TypeVar("Item")

FORMAT = "%(asctime)s %(levelname).1s %(name)s: %(message)s"

logger = logging.getLogger(__name__)


def setup_logging(output_dir: str | Path | None = None) -> None:
    """Logs to stderr, and to `output_dir/log.txt`; other ranks than 0 log warnings only.

    With `$MSCN_LOG` set to DEBUG, this project's own loggers also say what is too long for a log
    that is read: the name of every tensor that keeps its initialisation, for example.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if output_dir is not None and is_main():
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(Path(output_dir) / "log.txt", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(PrintableFormatter(FORMAT, "%H:%M:%S"))
    level = logging.INFO if is_main() else logging.WARNING
    logging.basicConfig(level=level, handlers=handlers, force=True)
    if is_main() and os.environ.get("MSCN_LOG", "").upper() == "DEBUG":
        for name in ("pretrain", "transfer"):
            logging.getLogger(name).setLevel(logging.DEBUG)


class MetricsWriter:
    """Appends scalars to a file of JSON lines and to TensorBoard events.

    Each line is one JSON object with the step first; a value that is not finite becomes null.
    """

    def __init__(
        self,
        output_dir: str | Path,
        resume_step: int = -1,
        *,
        file_name: str = "metrics.jsonl",
        step_name: str = "step",
    ) -> None:
        """
        Args:
            resume_step: rows that a killed run recorded after this step are dropped; -1 drops all
                rows. Unreadable rows are also dropped, and a warning counts them.
            file_name, step_name: Detectron2 calls them metrics.json and iteration.
        """
        self._step_name = step_name
        self._tensorboard = None
        self._file = None
        if not is_main():
            return
        from torch.utils.tensorboard import SummaryWriter

        path = Path(output_dir) / file_name
        _drop_after(path, resume_step, step_name)
        self._file = path.open("a", encoding="utf-8")
        # TensorBoard drops the step that it is given as well.
        self._tensorboard = SummaryWriter(str(output_dir), purge_step=resume_step + 1)

    def write(self, step: int, **scalars: float) -> None:
        """Records scalars at `step`."""
        if self._file is None or self._tensorboard is None:
            return
        values = {name: _jsonable(value) for name, value in scalars.items()}
        self._file.write(json.dumps({self._step_name: step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            if value is not None:
                self._tensorboard.add_scalar(name, value, step)

    def flush(self) -> None:
        """What was written survives a kill from here on; TensorBoard writes in the background."""
        if self._file is not None and self._tensorboard is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._tensorboard.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None:
            self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

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
    """The rows of a metrics file. Lines that hold no row with a step are left out, with a warning
    that counts them, but for a last one that a kill has cut off."""
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
    """A progress bar with rate and ETA on stderr and in progress.json, on the main process only.

    A bar inside of another one has a line of its own on a terminal. In a file, where moving
    between lines would leave escape codes, it follows the other one's text.
    """
    if not sys.stderr.isatty():
        options.setdefault("position", 0)
    return ProgressBar(items, desc=desc, dynamic_ncols=True, disable=not is_main(), **options)


def _row(line: bytes, step_name: str) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    step = row.get(step_name) if isinstance(row, dict) else None
    return row if isinstance(step, int) and not isinstance(step, bool) else None


def _drop_after(path: Path, step: int, step_name: str) -> None:
    if path.is_file():
        kept = [row for row in read_metrics(path, step_name) if row[step_name] <= step]
        atomic_write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _jsonable(value: float) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value
    return number if math.isfinite(number) else None
