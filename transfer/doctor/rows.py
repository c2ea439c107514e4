"""The findings of the doctor: rows of a table, as text and as JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from pretrain.common import findings
from pretrain.common.errors import InputError

OK, WARN, FAIL = "ok", "warn", "fail"


warned = logging.getLogger(findings.__name__)  # the logger of warnings about all inputs


class _Collected(logging.Handler):
    """Keeps log records instead of printing them."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        self.lines.append(record.getMessage())


@dataclass(frozen=True)
class Row:
    """Is one finding; `fail` means that a run would fail."""

    name: str
    status: str
    detail: str


class Rows(list):
    """Rows in the order in which they were found."""

    def add(self, name: str, status: str, detail: str) -> None:
        """Appends a row; the detail becomes one line."""
        self.append(Row(name, status, " ".join(detail.split())))

    @contextmanager
    def about(self, name: str) -> Iterator[None]:
        """Turns an InputError of the block into a failing row, and its warnings into warnings."""
        found = _Collected()
        before, warned.handlers = warned.handlers, [found]
        try:
            yield
        except InputError as error:
            self.add(name, FAIL, str(error))
        finally:
            warned.handlers = before
        for line in found.lines:
            self.add(name, WARN, line)

    def failures(self) -> list[Row]:
        """Returns the rows that would stop a run."""
        return [row for row in self if row.status == FAIL]


def as_text(rows: Sequence[Row]) -> str:
    """Returns an aligned table."""
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.status:4}  {row.name:{width}}  {row.detail}" for row in rows)


def as_json(rows: Sequence[Row]) -> str:
    """Returns {"ok": whether nothing fails, "checks": [{name, status, detail}]}."""
    good = all(row.status != FAIL for row in rows)
    return json.dumps({"ok": good, "checks": [asdict(row) for row in rows]}, indent=1)
