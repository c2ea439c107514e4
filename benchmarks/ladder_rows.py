"""The rows of a ladder's results: a file of JSON lines, one for each measured pretraining."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows so far; none if the file does not exist. InputError for a damaged line."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number} is not JSON ({error}); remove the line") from error
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends one line in a single write, because calls that share the work use the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write((json.dumps(row, sort_keys=True) + "\n").encode())
