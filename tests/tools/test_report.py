"""tools/report.py: four files that agree, a page that loads nothing else, clear errors."""

from __future__ import annotations

import copy
import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.transfer.report import conftest as synthetic_records
from tools.report import main

write_run = synthetic_records.write_run
VOID = {"meta", "link", "input", "img", "br", "wbr"}


class _Checker(HTMLParser):
    """Collects links and sources, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href"):
                self.targets.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        return None

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not match"


@pytest.fixture
def runs(tmp_path: Path, write_run: Callable[..., Path]) -> Path:
    for trial in range(2):
        write_run("mscn", "linear", {"top1": 60.0 + trial}, trial)
    write_run("<simclr>", "linear", {"top1": 55.5})
    write_run("untrained", "linear", {"top1": 15.0}, method="random", pictures=False)
    write_run("mscn", "detection", {"bbox/AP": 30.0, "bbox/AP50": 50.0})
    return tmp_path / "runs"


def test_four_files(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main([str(runs), "--output", str(output), "--compare", "mscn", "untrained"]) == 0
    printed = capsys.readouterr().out
    assert printed.rstrip().endswith(str(output / "report.html"))
    assert "60.5 ± 0.7 (n=2)" in printed and "+45.5" in printed
    rows = list(csv.DictReader((output / "report.csv").open()))
    means = {(row["checkpoint"], row["metric"]): float(row["mean"]) for row in rows}
    assert means == {
        ("mscn", "top1"): 60.5,
        ("<simclr>", "top1"): 55.5,
        ("untrained", "top1"): 15.0,
        ("mscn", "bbox/AP"): 30.0,
        ("mscn", "bbox/AP50"): 50.0,
    }
    assert "60.5 ± 0.7 (n=2)" in (output / "report.md").read_text()
    assert "\\toprule" in (output / "report.tex").read_text()


def test_page_is_self_contained(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--output", str(tmp_path / "out"), "--title", "A & B"]) == 0
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(page)
    assert not checker.open and len(checker.ids) == len(set(checker.ids))
    for target in checker.targets:
        inside = target.startswith("#") and target[1:] in checker.ids
        assert inside or target.startswith("data:"), target[:60]
    assert not re.search(r"https?://|@import|url\(", page)
    assert "<h1>A &amp; B</h1>" in page and "&lt;simclr&gt;" in page and "<simclr>" not in page
    text = re.sub(r"\s+", " ", page)
    mean, n = '<span class="mean">60.5</span> <span class="spread">', '<span class="n">n=2</span>'
    assert f'{mean}<span class="std">± 0.7</span> {n}</span>' in text
    alone = '<span class="mean">15.0</span> <span class="spread"><span class="n">n=1</span></span>'
    assert f'data-sort="15.0">{alone}' in text
    assert "color-scheme: light dark" in page and page.count("<svg") >= 5
    assert page.count("data:image/png") == 5  # two views, two kernels, one sheet of detections


def test_pictures_can_be_left_out(runs: Path, tmp_path: Path) -> None:
    assert main([str(runs), "--output", str(tmp_path / "out"), "--no-pictures"]) == 0
    assert (tmp_path / "out/report.html").read_text().count("data:image/png") == 2  # kernels


def test_broken_artifacts_are_noted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = runs / "linear/linear/mscn/trial_0"
    (folder / "kernels.png").write_bytes(b"torn")
    (folder / "curves.json").write_text("[{")
    assert main([str(runs), "--output", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out/report.html").read_text()
    printed = capsys.readouterr().out
    for text in ("picture left out", "curves left out"):
        assert text in page and text in printed


def test_bad_input(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--output", str(tmp_path / "out")]

    def error_of(*argv: str) -> str:
        assert main([*argv, *out]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
        return lines[0]

    assert "absent does not exist" in error_of(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    assert "no valid record.json" in error_of(str(tmp_path / "empty"))
    assert "did you mean 'mscn'" in error_of(str(runs), "--compare", "mscm", "untrained")
    one_task = error_of(str(runs / "linear"), "--leaderboard")
    assert "a leaderboard needs two tasks or more, and the records have 1 (linear" in one_task
    path = runs / "linear/linear/mscn/trial_0/record.json"
    record = copy.deepcopy(json.loads(path.read_text()))
    record["metrics"]["top1"] = 1.0
    other = tmp_path / "elsewhere/record.json"
    other.parent.mkdir()
    other.write_text(json.dumps(record))
    assert str(path) in (message := error_of(str(tmp_path))) and str(other) in message
    assert not (tmp_path / "out").exists()
