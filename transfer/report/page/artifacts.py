"""Artifacts of records: the trials' files of a kind, and the notes on what could not be read.

A missing or broken artifact becomes a note: the numbers do not depend on it. Missing ones are
counted, one note per kind, because a copy of records without their pictures is nothing unusual.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from transfer.report.rows_columns_cells import Cell
from transfer.results.read_records import RecordFile

Content = TypeVar("Content")


class Artifacts:
    """Finds and reads artifacts; `notes` grows by what failed, and by `finish`."""

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self._absent: dict[str, dict[Path, None]] = defaultdict(
            dict
        )  # the second as a set in order

    def path(self, cell: Cell | None, kind: str) -> Path | None:
        """The file of the first trial that has one, or None."""
        found = (self._find(file, kind) for file in (cell.files if cell else ()))
        return next(filter(None, found), None)

    def trial(self, cell: Cell, kind: str) -> int:
        """The number of the trial whose file `path` is."""
        return next(f.record["trial"] for f in cell.files if self._find(f, kind))

    def _find(self, file: RecordFile, kind: str) -> Path | None:
        path = file.artifact(kind)
        if path and path.is_file():
            return path
        if path:
            self._absent[kind][path] = None
        return None

    def read(self, cell: Cell | None, kind: str, check: Callable[[Any], Content]) -> Content | None:
        """The JSON file of that kind as `check` returns it; a note where that raises."""
        path = self.path(cell, kind)
        return None if path is None else self._read(path, kind, check)

    def read_all(
        self, cell: Cell | None, kind: str, check: Callable[[Any], Content]
    ) -> list[Content]:
        """The same of every trial that has the file."""
        paths = [self._find(file, kind) for file in (cell.files if cell else ())]
        found = [self._read(path, kind, check) for path in paths if path]
        return [content for content in found if content is not None]

    def _read(self, path: Path, kind: str, check: Callable[[Any], Content]) -> Content | None:
        try:
            return check(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            self.fail(path, kind.replace("_", " "), error)
            return None

    def fail(self, path: Path, what: str, error: Exception) -> None:
        """Notes that `path` could not be read."""
        note = f"{path}: {what} left out ({' '.join(str(error).split())})"
        if note not in self.notes:
            self.notes.append(note)

    def finish(self) -> None:
        """Adds one note per kind of file that records name and that is not there."""
        for kind, paths in sorted(self._absent.items()):
            count = "a file" if len(paths) == 1 else f"{len(paths)} files"
            words, first = kind.replace("_", " "), next(iter(paths))
            self.notes.append(f"{words}: {count} named by records not found, such as {first}")
        self._absent.clear()
