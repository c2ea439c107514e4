"""The cells of the tutorial notebook run, with few steps."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "tutorial.ipynb"


def test_the_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the cells as plain Python: none has a command of IPython. `make notebook` runs all."""
    monkeypatch.setenv("TUTORIAL_SHORT", "1")
    for name in ("DETECTRON2_DATASETS", "MSCN_LOG"):
        monkeypatch.setenv(name, "")  # the cells set them: they are put back after the test
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    space: dict[str, object] = {}
    for code in codes:
        if ".frame()" in code and importlib.util.find_spec("pandas") is None:
            continue
        exec(compile(code, NOTEBOOK.name, "exec"), space)
    assert Path.cwd().parent == tmp_path and Path("report", "report.html").is_file()


def test_the_committed_outputs_are_small() -> None:
    assert NOTEBOOK.stat().st_size < 300_000
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "Traceback" not in text and "/tmp/" not in text
