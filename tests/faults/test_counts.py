"""The tables of what was tried agree with the stored counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import counts


def test_the_page_holds_the_stored_counts() -> None:
    page = counts.PAGE.read_text()
    assert counts.with_tables(page, json.loads(counts.RESULT.read_text())) == page


def test_rows_of_one_name_are_added_up() -> None:
    reader = {"reader": "a", "cases": 500, "ok": 20, "refused": 480, "seconds": 1.5}
    killed = {"trainer": "b", "runs": 1, "kills": 4, "late": 1, "different": 0, "seconds": 2.0}
    assert counts.summed([reader, reader])["reader"]["a"] == {
        "cases": 1000,
        "ok": 40,
        "refused": 960,
        "seconds": 3,
    }
    lost = {"fault": "full disk", "tool": "c", "runs": 2, "complete": 1, "line": 1, "seconds": 1}
    measured = counts.summed([reader, killed, reader, lost])
    tables = counts.tables(measured)
    assert tables["reader"].splitlines()[2] == "| a | 1,000 | 40 | 960 | 3 |"
    assert tables["trainer"].splitlines()[2] == "| b | 1 | 4 | 1 | 0 | 2 |"
    assert tables["fault"].splitlines()[2] == "| full disk | 2 | 1 | 1 | 1 |"


def test_rows_are_added_to_stored_sums(tmp_path: Path) -> None:
    row = {"reader": "a", "cases": 500, "ok": 20, "refused": 480, "seconds": 1.5}
    stored, more = tmp_path / "stored.json", tmp_path / "more.jsonl"
    stored.write_text(json.dumps(counts.summed([row, {**row, "reader": "b"}])))
    more.write_text(json.dumps(row) + "\n")
    found = counts.summed(counts.read_rows(stored) + counts.read_rows(more))["reader"]
    assert {name: total["cases"] for name, total in found.items()} == {"a": 1000, "b": 500}


def test_no_row_without_a_file_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.delenv("FAULTS_COUNTS", raising=False)
    counts.add_row({"reader": "a"})
    monkeypatch.setenv("FAULTS_COUNTS", f"{tmp_path}/rows.jsonl")
    counts.add_row({"reader": "a"})
    assert json.loads(open(f"{tmp_path}/rows.jsonl").read()) == {"reader": "a"}
