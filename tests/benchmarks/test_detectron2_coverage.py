"""Tests of the counts of Detectron2's keys and config files that our engine accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.detectron2_coverage import main
from transfer.detection.upstream_keys import HONOURED

FPN = Path(__file__).parents[2] / "configs/detection/voc_fpn.yaml"


def test_files_that_load_and_what_stops_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Misc"
    folder.mkdir()
    (folder / "good.yaml").write_text(f"_BASE_: {FPN}\n")
    (folder / "bad.yaml").write_text(f"_BASE_: {FPN}\nMODEL: {{LOAD_PROPOSALS: true}}\n")
    (folder / "other.yaml").write_text(f"_BASE_: {FPN}\nMODEL: {{META_ARCHITECTURE: Other}}\n")
    main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"keys: {len(HONOURED)} of 192 honoured" in printed
    assert "1 of 3 load" in printed and "0 of 0 load" in printed
    assert "Misc/bad.yaml: MODEL.LOAD_PROPOSALS\n" in printed
    assert "Misc/other.yaml: MODEL.META_ARCHITECTURE\n" in printed
