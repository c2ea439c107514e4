"""The leaderboard's files: the same numbers in each, bold and starred cells, a page that loads."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.common.errors import InputError
from tests.transfer.report.page.browser import Browser, needs_browser
from tests.transfer.report.page.test_accessibility import CONTRAST, LABELS
from transfer.report.from_records import build_results
from transfer.report.leaderboard.board import make_leaderboard
from transfer.report.leaderboard.texts import format_places
from transfer.report.leaderboard.wide import to_latex, to_markdown, wide_table
from transfer.report.markdown_and_terminal import escape_markdown
from transfer.report.run import write_report
from transfer.results.read_records import read_records

Writer = Callable[..., Path]
TASKS = {
    "voc_mscn": ("detection", ["bbox/AP", "bbox/AP50", "bbox/AP75"]),
    "lin": ("linear", ["top1"]),
}
GAINS = {"mscn_r50": 8.0, "<b>|[simclr]_%": 0.0, "c": 0.1, "d": -9.0}


@pytest.fixture
def runs(tmp_path: Path, write_run: Writer) -> Path:
    for number, (protocol, (task, metrics)) in enumerate(TASKS.items()):
        hard = np.random.default_rng(number).normal(50, 10, 80)
        for place, (name, gain) in enumerate(GAINS.items()):
            for trial in range(3):
                scores = (
                    hard + gain + np.random.default_rng([number, place, trial]).normal(0, 1, 80)
                )
                options = {"protocol": protocol, "scores": scores, "pictures": False}
                folder = {"<b>|[simclr]_%": "simclr"}.get(name, name)
                path = write_run(folder, task, dict.fromkeys(metrics, 0.0), trial, **options)
                path.write_text(
                    path.read_text().replace(f'"name": "{folder}"', f'"name": "{name}"')
                )
    return tmp_path / "runs"


def test_four_files_say_the_same(runs: Path, tmp_path: Path) -> None:
    written = write_report([runs], tmp_path / "out", leaderboard=True)
    assert written.leaderboard == tmp_path / "out/leaderboard.html"
    page, text, latex = (
        (tmp_path / f"out/leaderboard.{kind}").read_text() for kind in ("html", "md", "tex")
    )
    with (tmp_path / "out/leaderboard.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    overall = {line["checkpoint"]: line for line in lines if line["task"] == "overall"}
    assert list(overall)[0] == "mscn_r50" and len(lines) == 2 * 4 + 4
    for label, line in overall.items():
        rank = f"{float(line['mean_rank']):.2f}"
        places = format_places(float(line["alike_low"]), float(line["alike_high"]))
        (row,) = [
            found
            for found in text.splitlines()
            if f"| {escape_markdown(label)} | {rank} |" in found and f"| {places} |" in found
        ]
        assert rank in page and rank in latex and rank in written.table and row.startswith("| ")
    assert "<b>|" not in page and "&lt;b&gt;|[simclr]_" in page.replace("<wbr>", "")
    assert "★" in text and "$^\\star$" in latex and "\\cmidrule(lr){3-5}" in latex
    groups = [line for line in lines if line["task"] == "linear"]
    assert [line["letters"] for line in groups] == ["a", "b", "b", "c"]
    assert [line["place_low"] for line in groups] == ["1", "2", "2", "4"]
    assert not (tmp_path / "plain").exists()
    assert write_report([runs], tmp_path / "plain").leaderboard is None
    assert not (tmp_path / "plain/leaderboard.html").exists()


def test_wide_table_marks_the_best(runs: Path) -> None:
    results = build_results(read_records([runs]).files)
    board = make_leaderboard(results, draws=20)
    table = wide_table(results, board.rows)
    assert [metric for _, metric in table.columns] == ["top1", "bbox/AP", "bbox/AP50", "bbox/AP75"]
    assert [count for _, count in table.groups] == [1, 3]
    for row, cells in table.rows:
        for cell, (protocol, metric) in zip(cells, table.columns):
            summary = results.cell(row, protocol).summaries[metric]
            assert cell.text == f"{summary.mean:.1f} ± {summary.std:.1f}"
            assert cell.bold == (row.label == "mscn_r50") == (cell.marks == "★")
    (line,) = [line for line in to_markdown(table).splitlines() if line.startswith("| mscn")]
    assert re.fullmatch(r"\| mscn_r50 (\| \*\*\d\d\.\d ± \d\.\d\*\*★ ){4}\|", line)
    (latex,) = to_latex(table)
    assert re.search(
        r"\{\}mscn\\_r50( & \\textbf\{\d\d\.\d\} \$\\pm\$ \d\.\d\$\^\\star\$){4}", latex
    )
    stacks = (
        "\\multicolumn{1}{c}{\\shortstack{{}lin}} & \\multicolumn{3}{c}{\\shortstack{{}voc\\_mscn}}"
    )
    assert f" & {stacks} \\\\" in latex
    assert "checkpoint & top1 & AP & AP50 & AP75" in latex


def test_latex_tables_are_as_wide_as_a_page(tmp_path: Path, write_run: Writer) -> None:
    """Seven tasks and seven checkpoints: no table has more than six columns of numbers."""
    for task in range(7):
        for row in range(7):
            options = {"protocol": f"task_{task}", "pictures": False}
            write_run(f"row_{row}", "linear", {"top1": 50.0 + row}, **options)
    write_report([tmp_path / "runs"], tmp_path, leaderboard=True)
    latex = (tmp_path / "leaderboard.tex").read_text()
    widths = [len(columns) for columns in re.findall(r"tabular\}\{(.*)\}", latex)]
    assert widths == [5, 4, 2 + 6, 2 + 6, 7, 2, 7, 2, 2 + 5]
    for number in range(7):
        heads = f"\\shortstack{{{{}}task\\_{number}}}", f"{{}}task\\_{number}: top1 & "
        assert all(text in latex for text in heads) and f"% task_{number}: data set" in latex


def test_nothing_is_written_if_it_cannot_be(tmp_path: Path, write_run: Writer) -> None:
    write_run("a", "linear", {"top1": 50.0}, pictures=False)
    with pytest.raises(InputError, match="a leaderboard needs two checkpoints or more"):
        write_report([tmp_path / "runs"], tmp_path / "out", leaderboard=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (texlive-latex-base)")
def test_latex_compiles(runs: Path, tmp_path: Path) -> None:
    write_report([runs], tmp_path, leaderboard=True)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\tiny"
        "\\input{leaderboard}\\end{document}"
    )
    words = "pdflatex -halt-on-error -interaction=nonstopmode -no-shell-escape paper".split()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]


@needs_browser
def test_the_page_in_a_browser(runs: Path, tmp_path: Path) -> None:
    page = write_report([runs], tmp_path / "out", leaderboard=True).leaderboard
    assert page is not None
    order = """Array.from(document.querySelectorAll("#overall tbody .name"))
      .map(name => name.textContent)"""
    with Browser(tmp_path) as browser:
        for width in (1280, 768, 400):
            browser.resize(width, 900, mobile=width < 500)
            browser.open(page)
            assert browser.run("document.documentElement.scrollWidth") == width
            if width == 1280:  # the ranking fits
                box = "document.querySelector('#overall .scroll')"
                assert browser.run(f"{box}.scrollWidth <= {box}.clientWidth")
        first = browser.run(order)
        assert first[0] == "mscn_r50" and first[-1] == "d"
        browser.run("document.querySelector('#overall button.sort').click()")
        assert browser.run(order)[0] == "d"
        browser.run("document.getElementById('theme').click()")
        assert browser.run("document.documentElement.dataset.theme") == "light"
        assert not browser.run(LABELS)
        for scheme in ("light", "dark"):
            browser.emulate(scheme=scheme)
            browser.run("document.documentElement.removeAttribute('data-theme')")
            assert not browser.run(CONTRAST)["low"]
        assert not browser.problems
