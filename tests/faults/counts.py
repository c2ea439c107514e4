"""How many damaged inputs and kills were tried: rows of runs, and the tables made from them.

The fault tests add rows to the file that `FAULTS_COUNTS` names: one JSON object per line, for a
reader, for a trainer, or for a fault that some tool met. Rows with one name are added up, so a long
run may be made in parts.

    python -m tests.faults.counts runs/faults.jsonl

stores the sums in `benchmarks/results/faults_2cores.json` with the machine, and writes the tables
between the marks in `docs/guarantees.md`. A test compares the page with the file. To add rows to
the stored sums, name the stored file first:

    python -m tests.faults.counts benchmarks/results/faults_2cores.json runs/faults.jsonl
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.marked_page import replaced_after
from benchmarks.result_file import write_result

ROOT = Path(__file__).parents[2]
RESULT, PAGE = ROOT / "benchmarks/results/faults_2cores.json", ROOT / "docs/guarantees.md"
BEGIN = "<!-- {} of tests/faults/counts.py -->"
COLUMNS = {
    "reader": ("cases", "ok", "refused", "seconds"),
    "trainer": ("runs", "kills", "late", "different", "seconds"),
    "fault": ("runs", "complete", "line", "seconds"),
}
HEADS = {
    "reader": "| reader | inputs | accepted | refused in one line | seconds |",
    "trainer": "| trainer | runs | kills | kills after the end | runs that differ | seconds |",
    "fault": "| fault | runs of tools | complete | failed in one line | seconds |",
}


def add_row(row: Mapping[str, Any]) -> None:
    """Adds a row to the file that `FAULTS_COUNTS` names, if it names one."""
    if name := os.environ.get("FAULTS_COUNTS"):
        with open(name, "a") as rows:
            rows.write(json.dumps(row) + "\n")


def summed(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """{a kind of COLUMNS: {name: {column: sum}}}, in the order of the rows."""
    sums: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in COLUMNS}
    for row in rows:
        (kind,) = sums.keys() & row.keys()
        total = sums[kind].setdefault(row[kind], dict.fromkeys(COLUMNS[kind], 0))
        for column in total:
            total[column] = round(total[column] + row[column], 1)
    return sums


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows in a file: those that tests have written, or the sums that `main` has stored."""
    if file.suffix != ".json":
        return [json.loads(line) for line in file.read_text().splitlines()]
    stored = json.loads(file.read_text())
    return [
        {kind: name, **total} for kind in COLUMNS for name, total in stored.get(kind, {}).items()
    ]


def tables(measured: Mapping[str, Any]) -> dict[str, str]:
    """The table of each kind in Markdown, of what `summed` returned."""
    made = {}
    for kind, columns in COLUMNS.items():
        lines = [HEADS[kind], "|---" * (len(columns) + 1) + "|"]
        for name, total in measured[kind].items():
            lines.append(f"| {name} | " + " | ".join(f"{total[c]:,.0f}" for c in columns) + " |")
        made[kind] = "\n".join(lines)
    return made


def with_tables(page: str, measured: Mapping[str, Any]) -> str:
    """The page with the text between its marks made from the counts."""
    for kind, table in tables(measured).items():
        page = replaced_after(page, BEGIN.format(kind), [table])
    return page


def main(names: list[str]) -> None:
    """Stores the sums of some files of rows, and writes the page."""
    write_result(RESULT, summed(row for name in names for row in read_rows(Path(name))))
    PAGE.write_text(with_tables(PAGE.read_text(), json.loads(RESULT.read_text())))


if __name__ == "__main__":
    main(sys.argv[1:])
