"""The rows of a ladder's results: a file of JSON lines, one for each measured pretraining.

Also what every report of such rows takes from them: the main number of a measure, and the text of
several seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows so far; none if the file does not exist. InputError for a damaged line."""
    if not path.is_file():
        return []
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{number} is not JSON ({error}); remove the line") from error
    return rows


def main_value(
    row: Mapping[str, Any], measure: str, statistics: Sequence[str] = ("precise", "raw")
) -> float:
    """Returns a row's main number: input as the weights expect it, re-estimated statistics if any.

    Args:
        statistics: kinds of batch-norm statistics, the most wanted first; a row has one of them.
    """
    choice = "on" if row["filter_wanted"] else "off"
    keys = [f"{measure}/{kind}/{choice}" for kind in statistics]
    return float(next(row["metrics"][key] for key in keys if key in row["metrics"]))


def mean_and_std(values: Sequence[float], digits: int = 1) -> str:
    """Returns "61.2 ± 0.4": mean and sample standard deviation, which one value has not; "" for
    none.
    """
    from transfer.results.statistics import summarize  # imports scipy, which --help does not need

    if not values:
        return ""
    found = summarize(values)
    return f"{found.mean:.{digits}f}" + ("" if found.std is None else f" ± {found.std:.{digits}f}")


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends one line in a single write, because calls that share the work use the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        file.write((json.dumps(row, sort_keys=True) + "\n").encode())
