"""Markdown, CSV, LaTeX and terminal text have the same numbers."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from transfer.report.compare import compare_table
from transfer.report.csv_and_latex import CSV_FIELDS, escape_latex, to_csv, to_latex
from transfer.report.from_records import build_results
from transfer.report.markdown_and_terminal import comparison_to_terminal, to_markdown, to_terminal
from transfer.report.numbers_as_text import format_count, format_seconds
from transfer.report.rows_columns_cells import Results
from transfer.results.read_records import read_records

VALUES = [40.0, 43.5, 41.25]


@pytest.fixture
def results(tmp_path: Path, write_run: Callable[..., Path]) -> Results:
    for trial, value in enumerate(VALUES):
        write_run("mscn_r18", "linear", {"top1": value}, trial)
    write_run("mscn_r18", "knn", {"knn20_top1": 51.0})
    write_run("simclr", "knn", {"knn20_top1": 48.5})
    write_run("zero", "knn", {"knn20_top1": 9.75}, method="random")
    write_run("other", "detection", {"bbox/AP": 3.0}, status="shortened")
    return build_results(read_records([tmp_path]).files)


def test_csv_has_every_digit(results: Results) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(results))))
    assert list(rows[0]) == CSV_FIELDS
    by_key = {(row["checkpoint"], row["metric"]): row for row in rows}
    linear = by_key["mscn_r18", "top1"]
    assert float(linear["mean"]) == pytest.approx(np.mean(VALUES), rel=1e-12)
    assert float(linear["std"]) == pytest.approx(np.std(VALUES, ddof=1), rel=1e-12)
    assert linear["n"] == "3" and [float(v) for v in linear["values"].split()] == VALUES
    assert linear["pretrain_seconds"] == "912.0" and linear["pretrain_views"] == "123456"
    knn = by_key["simclr", "knn20_top1"]
    assert (knn["mean"], knn["std"], knn["n"], knn["metric_unit"]) == ("48.5", "", "1", "percent")
    assert by_key["zero", "knn20_top1"]["pretrain_seconds"] == ""


def test_tables_as_text(results: Results) -> None:
    table = to_terminal(results)
    assert "41.6 ± 1.8 (n=3)" in table and "51.0 (n=1)" in table and "3.0 (n=1)†" in table
    assert table.splitlines()[2].startswith("zero") and " none " in table.splitlines()[2]
    markdown = to_markdown(results)
    assert "| mscn_r18 | resnet18 | 15.2 min | 123k |" in markdown
    assert "## linear: linear_photos" in markdown and "† shortened" in markdown
    latex = to_latex(results)
    assert (
        "mscn\\_r18 & 3 & 41.6 $\\pm$ 1.8 t[37.2" in latex
        and "mscn\\_r18" in latex
        and "\\toprule" in latex
    )
    table, _, rest = latex.partition("\\end{tabular}")
    assert table.count(" \\\\") == 1 + 3  # a table per protocol, kNN first: its three rows
    assert "cost of pretraining" in rest
    for line in latex.splitlines():
        assert line.startswith("%") or not re.search(r"(?<!\\)[%#_&](?! )", line), line


def test_a_terminal_has_a_narrow_table_per_protocol(results: Results) -> None:
    tables = [part.splitlines() for part in to_terminal(results).split("\n\n")]
    assert [line.split() for line in tables[0]][0][-1] == "transfer" and len(tables[0]) == 2 + 4
    by_title = {table[0]: table[1:] for table in tables[1:]}
    assert by_title["linear: linear_photos"][2:] == ["mscn_r18  41.6 ± 1.8 (n=3) t[37.2, 46.0]"]
    knn = next(rows for title, rows in by_title.items() if title.startswith("knn: "))
    assert [row.split()[0] for row in knn] == [
        "knn20_top1",
        "--------",
        "mscn_r18",
        "simclr",
        "zero",
    ]
    widest = max(len(line) for table in tables[:-1] for line in table)
    assert widest <= 100


def test_a_comparison_has_a_table_per_protocol(results: Results) -> None:
    rows = {row.label: row for row in results.checkpoints}
    compared = compare_table(results, rows["mscn_r18"], rows["simclr"])
    units, knn = comparison_to_terminal(compared, "points").split("\n\n")
    assert units == "points" and knn.splitlines()[0] == compared[1][0][0]
    assert knn.splitlines()[3].startswith("knn20_top1") and "+2.5" in knn


def test_latex_counts_beside_each_number_where_they_differ(
    tmp_path: Path, write_run: Callable[..., Path]
) -> None:
    for trial, masks in enumerate((30.0, None)):
        write_run("a", "detection", {"bbox/AP": 40.0 + trial, "segm/AP": masks}, trial)
    latex = to_latex(build_results(read_records([tmp_path]).files))
    assert "a &  & 40.5 $\\pm$ 0.7 (n=2)" in latex and "& 30.0 (n=1) \\\\" in latex


def test_latex_escapes() -> None:
    assert escape_latex("a_b & 5% #1 {x} ~^$ \\") == (
        r"a\_b \& 5\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\$ \textbackslash{}"
    )
    assert escape_latex("51.3 ± 0.4★†") == r"51.3 $\pm$ 0.4$^\star$$^\dagger$"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex (texlive-latex-base)")
def test_latex_compiles(tmp_path: Path, write_run: Callable[..., Path]) -> None:
    """Every kind of table, and names of all characters that TeX reads otherwise."""
    for number, name in enumerate(("[a_b%c&d#e~f", "$g^h{i}\\j<k>|l'm\"n`", "é±★†–?`!`")):
        for trial in range(3):
            scores = np.random.default_rng([number, trial]).normal(50 + 9 * number, 2, 100)
            options = {"method": "mscn", "pictures": False, "trial": trial, "scores": scores}
            seed = {"pretrain_seed": number, "pretrain_config_sha256": "one"}
            metrics = {"bbox/AP": 0.0, "bbox/AP50": 0.0, "segm/AP": 0.0}
            path = write_run(
                str(number), "detection", metrics, protocol="coco_mscn", checkpoint=seed, **options
            )
            record = json.loads(path.read_text())
            record["checkpoint"]["name"] = name
            path.write_text(json.dumps(record))
    results = build_results(read_records([tmp_path]).files)
    compared = compare_table(results, *results.checkpoints[:2])
    (tmp_path / "report.tex").write_text(to_latex(results, compared, "a % b\nc"), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\small\\input{report}"
        "\\end{document}"
    )
    words = "pdflatex -halt-on-error -interaction=nonstopmode -no-shell-escape paper".split()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000


def test_units() -> None:
    texts = [format_seconds(value) for value in (None, 3.21, 45.0, 150.0, 9000.0, 400000.0)]
    assert texts == ["–", "3.2 s", "45 s", "2.5 min", "2.5 h", "4.6 d"]
    assert [format_count(value) for value in (None, 12, 12345, 3.2e8)] == [
        "–",
        "12",
        "12.3k",
        "320M",
    ]
