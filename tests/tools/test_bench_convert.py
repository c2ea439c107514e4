"""The benchmark of a conversion runs small and writes a complete result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.convert import main


@pytest.mark.slow
def test_a_small_conversion_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "convert.json"
    assert main(["--backbone", "resnet18", "--repetitions", "1", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    (row,) = result["rows"]
    assert all(row[name]["seconds"] > 0 for name in ("import", "copy", "convert"))
    assert result["medians"]["seconds_over_copy"] == row["seconds_over_copy"]
    assert result["environment"]["torch"] and result["file_mib"] > 80
