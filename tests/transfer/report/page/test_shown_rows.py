"""A page of very many rows: its tables have all of them, figures and comparisons a selection."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from transfer.report.from_records import build_results
from transfer.report.page import shown_rows
from transfer.report.run import write_report
from transfer.results.read_records import read_records

from ..conftest import Writer

COUNT = 12


@pytest.fixture
def many(tmp_path: Path, write_run: Writer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven checkpoints, m0 the worst, and the untrained one, where a page draws six."""
    monkeypatch.setattr(shown_rows, "MOST_ROWS", 6)
    for number in range(COUNT):
        name, method = (f"m{number}", "simclr") if number else ("untrained", "random")
        for trial in range(3):
            values = {"bbox/AP": 20.0 + number + 0.1 * trial, "bbox/AP50": 60.0 - number}
            per_class = {"bbox/AP": {"cat": 10.0 + number, "dog": 30.0 - number}}
            facts = {"method": method, "per_class": per_class, "pictures": False}
            write_run(name, "detection", values, trial=trial, **facts)
    return tmp_path


def test_baselines_and_leaders_are_drawn(many: Path) -> None:
    results = build_results(read_records([many]).files)
    shown = shown_rows.shown_rows(results)
    # In turn the first of AP (the highest number) and of AP50 (the lowest)
    assert {row.label for row in shown.checkpoints} == {"untrained", "m1", "m10", "m11", "m2", "m9"}
    assert [row for row in results.checkpoints if row in shown.checkpoints] == shown.checkpoints
    named = shown_rows.shown_rows(results, ("m5", "m6"))
    assert {"m5", "m6", "untrained", "m11"} < {row.label for row in named.checkpoints}
    assert len(named.checkpoints) == 6


def test_all_are_drawn_if_they_fit(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown_rows, "MOST_ROWS", COUNT)
    results = build_results(read_records([many]).files)
    shown = shown_rows.shown_rows(results)
    assert shown.checkpoints == results.checkpoints
    assert shown_rows.words_on_shown(results, shown) == ""
    assert "Drawn and compared" not in write_report([many], many / "out").page.read_text()


def test_the_page_says_so_and_its_tables_hold_all(many: Path) -> None:
    page = write_report([many], many / "out", pair=("m5", "m11")).page.read_text()
    assert page.count("This page draws and compares 6 of 12 checkpoints") == 3
    main = page.partition('id="main"')[2].partition("</table>")[0]
    assert all(f'data-sort="{name}"' in main for name in ("untrained", "m1", "m6", "m11"))
    picks = re.findall(r'class="pick[^>]*value="(\d+)" aria-label="compare ([^"]*)"', main)
    picks = sorted((int(number), name) for number, name in picks)  # the table is in rank's order
    assert [number for number, _ in picks] == list(range(6))
    data = json.loads(re.search(r'id="pairs">(.*?)</script>', page, re.S)[1])
    assert data["labels"] == [name for _, name in picks] and "m5" in data["labels"]
    # Every two of the six, in numbers and as differences by class
    assert len(data["pairs"]) == len(data["classes"]) == 15
    assert page.count("<option value=") == 2 * 6
    chosen = re.findall(r'<option value="\d+" selected>([^<]*)<', page)
    assert chosen == ["m5", "m11"]
