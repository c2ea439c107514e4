"""The Hardware line of each shipped pretraining config has the computed cost of its step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.footprints import TABLE, footprint, hardware_line, named_configs, processes_of

STORED = json.loads(TABLE.read_text(encoding="utf-8"))
TO_REFRESH = "python -m benchmarks.footprints computes the table and rewrites the lines"


def test_the_table_has_the_configs_that_run_on_gpus() -> None:
    assert set(STORED) == set(named_configs()), TO_REFRESH
    assert all(entry["processes"] == processes_of(name) for name, entry in STORED.items())


@pytest.mark.parametrize("name", STORED)
def test_the_header_says_what_the_table_says(name: str) -> None:
    lines = named_configs()[name].read_text(encoding="utf-8").splitlines()
    assert hardware_line(STORED[name]) in lines, TO_REFRESH
    assert sum("Hardware" in line for line in lines) == 1


def test_a_recipe_still_needs_what_the_table_says() -> None:
    """For all other configs only the table is checked, because computing them takes minutes."""
    assert footprint("mscn_r50") == pytest.approx(STORED["mscn_r50"], rel=0.02)


def test_a_line_names_the_smallest_card_that_fits() -> None:
    assert "8 GPUs of 80 GB (65 GiB and 37.4 TFLOP a step on each)" in hardware_line(
        {"processes": 8, "gib": 65.0, "tflop": 37.39}
    )
    assert "1 GPU of 141 GB" in hardware_line({"processes": 1, "gib": 91.6, "tflop": 119.0})
    with pytest.raises(ValueError, match="no GPU has .* GiB"):
        hardware_line({"processes": 1, "gib": 130.0, "tflop": 1.0})


def test_lines_are_rewritten_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import footprints

    config, old = tmp_path / "small.yaml", {"processes": 1, "gib": 3.0, "tflop": 1.0}
    text = "# A config.\n{}\n# Hardware: much.\nSEED: 1\n"
    config.write_text(text.format(hardware_line(old)))
    new = {**old, "gib": 30.0}
    monkeypatch.setattr(footprints, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(footprints, "named_configs", lambda: {"small": config})
    monkeypatch.setattr(footprints, "footprint", lambda name: new)
    footprints.main([])
    assert config.read_text() == text.format(hardware_line(new))
    assert json.loads((tmp_path / "table.json").read_text()) == {"small": new}
