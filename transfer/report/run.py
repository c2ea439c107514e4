"""Writes report.html, report.md, report.csv and report.tex for the records below some folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.errors import InputError
from pretrain.common.locks import one_writer
from pretrain.common.output_path import check_output
from transfer.report.compare import compare_table, describe_units
from transfer.report.csv_and_latex import to_csv, to_latex
from transfer.report.from_records import build_results
from transfer.report.leaderboard.write import leaderboard_texts
from transfer.report.markdown_and_terminal import comparison_to_terminal, to_markdown, to_terminal
from transfer.report.page.page import render_page
from transfer.report.row_named import row_named
from transfer.results.read_records import read_records


@dataclass(frozen=True)
class Written:
    """Holds what the command prints: main tables, comparison (or ""), and one line per note."""

    page: Path
    table: str
    comparison: str
    notes: list[str]
    leaderboard: Path | None = None


def write_report(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    pair: Sequence[str] = (),
    title: str = "Transfer results",
    pictures: bool = True,
    leaderboard: bool = False,
) -> Written:
    """Reads all records below `folders` and writes the four files into `output`.

    Args:
        pair: names of two checkpoints or methods to compare (see `row_named`), or none.
        pictures: whether views and detections, which show data, are embedded.
        leaderboard: whether leaderboard.html, .md, .csv and .tex are written, too.

    Raises:
        InputError: no record has a number, records contradict each other, or a name in `pair` is
            unknown or belongs to several rows; or a leaderboard has too few checkpoints or tasks.
    """
    records = read_records(folders)
    results = build_results(records.files)
    results.notes.extend(records.notes)
    if not results.checkpoints:
        raise InputError(
            f"no record with a number below {', '.join(map(str, folders))} ({results.notes[0]})"
        )
    compared, units = None, ""
    if pair:
        chosen = [row_named(results, name) for name in pair]
        pair = [row.label for row in chosen]
        compared, units = compare_table(results, *chosen), describe_units(*chosen)
    ranked = leaderboard_texts(results, title) if leaderboard else None
    output = check_output(output)
    with one_writer(output):
        page = render_page(results, title, pair, pictures)
        texts = {"html": page, "md": to_markdown(results, compared, units), "csv": to_csv(results)}
        texts["tex"] = to_latex(results, compared, units)
        for suffix, text in texts.items():
            atomic_write_text(output / f"report.{suffix}", text)
        for suffix, text in (ranked.files if ranked else {}).items():
            atomic_write_text(output / f"leaderboard.{suffix}", text)
    table = "\n\n".join([to_terminal(results), *([ranked.terminal] if ranked else [])])
    return Written(
        page=output / "report.html",
        table=table,
        comparison=comparison_to_terminal(compared, units) if compared else "",
        notes=results.notes,
        leaderboard=output / "leaderboard.html" if ranked else None,
    )
