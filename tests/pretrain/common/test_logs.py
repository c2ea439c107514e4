"""Progress bars in files, and the log that says more."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pretrain.common.logs import progress, read_metrics, setup_logging


def test_bars_inside_of_bars_leave_no_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """In a file; both are there, since a suite reads them from its jobs' logs."""
    with progress(total=2, desc="outer", mininterval=0) as outer:
        for _ in range(2):
            for _ in progress(range(3), desc="inner", leave=False, mininterval=0):
                pass
            outer.update()
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("inner: 100%") == 2 and "outer: 100%" in said


@pytest.mark.parametrize("value, shown", [("", False), ("DEBUG", True), ("debug", True)])
def test_more_on_demand(
    value: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of this project's loggers alone."""
    monkeypatch.setenv("MSCN_LOG", value)
    levels = {name: logging.getLogger(name).level for name in ("pretrain", "transfer")}
    try:
        setup_logging()
        logging.getLogger("transfer.detection").debug("all names")
        logging.getLogger("PIL").debug("chunk")
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    said = capsys.readouterr().err
    assert ("all names" in said) == shown and "chunk" not in said


def test_rows_of_a_log_are_a_step_and_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = ['{"step": 1, "a": 0.5, "b": null}', '{"step": 2, "a": "text"}', '{"step": 3, "a": []}']
    path.write_text("\n".join([*lines, '{"step": 4, "a": NaN}', '{"a": 1}', '{"step": 5, "a"']))
    assert read_metrics(path) == [{"step": 1, "a": 0.5, "b": None}, {"step": 4, "a": None}]
    assert "3 lines cannot be read and are left out (2, 3, 5)" in caplog.text
