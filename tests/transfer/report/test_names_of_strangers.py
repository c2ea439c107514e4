"""Names in records cannot become HTML, links or formulas; one bad artifact is a note."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.transfer.results.test_record import RECORD
from transfer.report.csv_and_latex import no_formula
from transfer.report.markdown_and_terminal import escape_markdown
from transfer.report.run import write_report

NAME = "=<script>alert(1)</script>\x1b[2J[a](http://x) " + "A" * 2_000_000


def test_cells() -> None:
    for text in ("=1+1", "@x", "+x", "-x", "-1;x", "\tx"):
        assert no_formula(text) == f"'{text}"
    for value in ("-1.5", "-1.5 +2", "a-b", "", 3, None):
        assert no_formula(value) == value
    assert escape_markdown("a_b|<i>`x`[y](z)") == "a_b\\|&lt;i&gt;\\`x\\`[y]\\(z)"


@pytest.mark.parametrize(
    "curves", ["x" * 5000, "a\0b", "link", "fifo", "deep.json", "/etc/hostname"]
)
def test_the_rest_of_the_report_is_made(curves: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs/trial_0"
    folder.mkdir(parents=True)
    (tmp_path / "outside.json").write_text('[{"step": 1, "secret-curve": 2}]')
    (folder / "link").symlink_to(tmp_path / "outside.json")
    os.mkfifo(folder / "fifo")
    (folder / "deep.json").write_text("[" * 100_000)
    good = tmp_path / "runs/good"
    good.mkdir()
    (good / "record.json").write_text(json.dumps({**RECORD, "artifacts": {}}))
    record = json.loads(json.dumps(RECORD))
    record["checkpoint"].update(name=NAME, sha256="5" * 64)
    record["artifacts"]["curves"] = curves
    (folder / "record.json").write_text(json.dumps(record))
    written = write_report([tmp_path / "runs"], tmp_path / "out")
    assert written.notes and all(note.isprintable() for note in written.notes)
    assert "\x1b" not in written.table and len(written.table) < 20_000
    texts = {file.suffix: file.read_text() for file in (tmp_path / "out").iterdir()}
    assert "<script>alert" not in texts[".md"] and "secret-curve" not in texts[".html"]
    assert not any(line.startswith("=") for line in texts[".csv"].splitlines())
    assert all(len(text) < 2_000_000 for text in texts.values())
