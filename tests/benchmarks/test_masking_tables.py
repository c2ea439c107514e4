"""The tables of the longer look and of the tuning: the stored rows, and differences by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.ladder import parse, plan_runs
from benchmarks.ladder_rows import read_rows
from benchmarks.masking_report import ENDPOINTS
from benchmarks.masking_tables import TABLES, Table, main, table_lines
from pretrain.common.config import CHECKOUT
from pretrain.common.errors import InputError

RESULTS = CHECKOUT / "benchmarks" / "results"
PAGE = CHECKOUT / "docs" / "results" / "masking.md"
MADE_UP = Table("made_up", {"a": "row A", "b": "row B"}, (("b", "a"),), "A")


def rows_of(values: dict[str, list[float]]) -> list[dict]:
    """Rows of which all endpoints have the same value."""
    return [
        {
            "name": name,
            "filter_wanted": True,
            "metrics": {f"{endpoint}/precise/on": value for endpoint in ENDPOINTS},
        }
        for name, found in values.items()
        for value in found
    ]


def test_the_page_shows_the_stored_rows(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text())
    main(["--rows", str(RESULTS), "--page", str(page)])
    assert page.read_text() == PAGE.read_text()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.suite)
def test_a_table_has_all_rows_of_its_suite(table: Table) -> None:
    runs = plan_runs(parse(["--suite", f"{table.suite}.yaml", "--seeds", "1"]))
    assert {run["name"] for run in runs} == set(table.titles)
    stored = {row["name"] for row in read_rows(RESULTS / f"{table.suite}.jsonl")}
    shown = table_lines(table, read_rows(RESULTS / f"{table.suite}.jsonl"))
    titles = {line.split(" | ")[0].removeprefix("| ") for line in shown}
    assert stored and {table.titles[name] for name in stored} <= titles


def test_a_difference_has_the_interval_of_the_pooled_deviation() -> None:
    lines = table_lines(MADE_UP, rows_of({"a": [1.0, 2.0], "b": [4.0, 6.0]}))
    assert "| row A | " + " | ".join(["1.50 ± 0.71"] * 4) + " | 2 |" in lines
    pooled = math.sqrt((0.5 + 2.0) / 2)
    reach = stats.t.ppf(0.975, 2) * pooled * math.sqrt(1 / 2 + 1 / 2)
    p = 2 * stats.t.sf(3.5 / pooled, 2)
    expected = f"+3.50 ({3.5 - reach:+.2f} to {3.5 + reach:+.2f}), p {p:.3f}"
    assert "| row B, minus A | " + " | ".join([expected] * 4) + " |" in lines


def test_one_seed_has_no_difference() -> None:
    lines = table_lines(MADE_UP, rows_of({"a": [1.0, 2.0], "b": [4.0]}))
    assert any(line.startswith("| row B | 4.00 |") for line in lines)
    assert not any("minus" in line for line in lines)


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    assert main(["--rows", str(RESULTS), "--page", str(page)]) == 2
    with pytest.raises(InputError, match="lacks the lines"):
        main.__wrapped__(["--rows", str(RESULTS), "--page", str(page)])
