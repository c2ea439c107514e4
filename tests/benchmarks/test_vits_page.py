"""The page on MAE and MSN shows the numbers of the stored rows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ladder_rows import main_value, read_rows

ROOT = Path(__file__).parents[2]
COLUMNS = ("linear", "knn20", "linear_gray", "knn20_gray")


def test_the_table_has_the_stored_rows() -> None:
    page = (ROOT / "docs/results/vits.md").read_text()
    shown = [
        line for line in page.splitlines() if line.startswith(("| untrained", "| mae", "| msn"))
    ]
    rows = read_rows(ROOT / "benchmarks/results/vits_cpu.jsonl")
    assert shown == [
        " | ".join(
            [
                f"| {row['name']} | {row['seed']}",
                *(f"{main_value(row, column):.1f}" for column in COLUMNS),
            ]
        )
        + " |"
        for row in rows
    ]
