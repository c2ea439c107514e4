"""Artifacts of records: finds and reads the trials' files, and notes those that cannot be read.

A missing or broken artifact becomes a note: the numbers do not depend on it. Missing files are
counted in one note per kind, because copies of records without their pictures are common.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pretrain.common.printable import MOST, printable, printable_tree, shown
from pretrain.common.safe_json import read_json
from transfer.report.rows_columns_cells import Cell
from transfer.results.read_records import RecordFile

Content = TypeVar("Content")
# All exceptions that reading and checking an artifact may raise
FAULTS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(RecursionError, MemoryError),
)
LARGEST, LEAST = 1e15, 1e-30  # limits of values that can be drawn on an axis


class Artifacts:
    """Finds and reads artifacts; failures and `finish` add lines to `notes`."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self._absent: dict[str, dict[Path, None]] = defaultdict(
            dict
        )  # the second is an ordered set

    def path(self, cell: Cell | None, kind: str) -> Path | None:
        """Returns the file of the first trial that has one, or None."""
        found = (self._find(file, kind) for file in (cell.files if cell else ()))
        return next(filter(None, found), None)

    def trial(self, cell: Cell, kind: str) -> int:
        """Returns the number of the trial whose file `path` returns."""
        return next(f.record["trial"] for f in cell.files if self._find(f, kind))

    def _find(self, file: RecordFile, kind: str) -> Path | None:
        path = file.artifact(kind)
        if path and path.is_file():
            return path
        if path:
            self._absent[kind][path] = None
        return None

    def read(self, cell: Cell | None, kind: str, check: Callable[[Any], Content]) -> Content | None:
        """Returns the JSON file of a kind after `check`; if that raises, it adds a note."""
        path = self.path(cell, kind)
        return None if path is None else self._read(path, kind, check)

    def read_all(
        self, cell: Cell | None, kind: str, check: Callable[[Any], Content]
    ) -> list[Content]:
        """Returns the same for every trial that has the file."""
        paths = [self._find(file, kind) for file in (cell.files if cell else ())]
        found = [self._read(path, kind, check) for path in paths if path]
        return [content for content in found if content is not None]

    def _read(self, path: Path, kind: str, check: Callable[[Any], Content]) -> Content | None:
        try:
            return check(printable_tree(read_json(path)))
        except FAULTS as error:
            self.fail(path, kind.replace("_", " "), error)
            return None

    def fail(self, path: Path, what: str, error: Exception) -> None:
        """Notes that `path` could not be read."""
        note = printable(f"{path}: {what} left out ({' '.join(str(error).split())})", 2 * MOST)
        if note not in self.notes:
            self.notes.append(note)

    def finish(self) -> None:
        """Adds one note per kind of file that records name and that does not exist."""
        for kind, paths in sorted(self._absent.items()):
            count = "a file" if len(paths) == 1 else f"{len(paths)} files"
            words, first = kind.replace("_", " "), next(iter(paths))
            self.notes.append(f"{words}: {count} named by records not found, such as {first}")
        self._absent.clear()


def drawable(value: Any) -> float:
    """Returns a number of an artifact for a figure; ValueError for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a number")
    if not abs(value) <= LARGEST:
        raise ValueError(f"{value} is too large for a figure, or is not a number")
    return 0.0 if abs(value) < LEAST else float(value)
