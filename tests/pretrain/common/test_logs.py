"""Progress bars in files, and the more detailed log."""

from __future__ import annotations

import errno
import io
import logging
import os
from pathlib import Path

import pytest

from pretrain.common.logs import LogFile, MetricsWriter, progress, read_metrics, setup_logging


def test_in_a_file_a_bar_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole lines, for bars inside of bars as well; what leaves no trace has no last one.

    The last step has one line, which says how long the stage took.
    """
    monkeypatch.setattr("pretrain.common.progress.LINE_SECONDS", 0.0)
    monkeypatch.setattr("pretrain.common.progress.SHORT_SECONDS", 0.0)
    with progress(total=2, desc="outer", unit="step") as outer:
        for _ in range(2):
            for _ in progress(range(3), desc="inner", leave=False):
                pass
            outer.set_postfix(loss="0.50")
            outer.update()
    said = capsys.readouterr().err
    assert not {"\x1b", "\r"} & set(said) and "█" not in said
    lines = [line[8:].strip() for line in said.splitlines()]  # without the time
    assert [line.partition(",")[0] for line in lines] == [
        "inner: 1 of 3 it (33 %)",
        "inner: 2 of 3 it (66 %)",
        "outer: 1 of 2 step (50 %)",
        "inner: 1 of 3 it (33 %)",
        "inner: 2 of 3 it (66 %)",
        "outer: 2 of 2 step",
    ]
    assert "took 0 s" in lines[-1] and lines[-1].endswith("loss 0.50") and "/s" in lines[-1]


def test_short_stages_and_quiet_commands_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(progress("abc", desc="short")) == ["a", "b", "c"]
    monkeypatch.setattr("pretrain.common.progress.LINE_SECONDS", 0.0)
    monkeypatch.setenv("MSCN_LOG", "QUIET")
    assert list(progress("abc", desc="quiet")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_is_drawn() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    for _ in progress(range(3), desc="stage", file=terminal, mininterval=0):
        pass
    assert "stage: 100%" in terminal.getvalue() and "\r" in terminal.getvalue()


def test_quiet_on_the_terminal_is_whole_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSCN_LOG", "QUIET")
    setup_logging(tmp_path)
    logging.getLogger("transfer.x").info("all is well")
    logging.getLogger("transfer.x").warning("not quite")
    logging.getLogger("fvcore.nn").info("a library's chatter")
    said, kept = capsys.readouterr().err, (tmp_path / "log.txt").read_text()
    assert "not quite" in said and "all is well" not in said
    assert "not quite" in kept and "all is well" in kept and "chatter" not in kept
    assert "transfer.x" not in kept


@pytest.mark.parametrize("value, shown", [("", False), ("DEBUG", True), ("debug", True)])
def test_more_on_demand(
    value: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only this project's loggers are changed."""
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


def test_a_full_disk_cuts_the_log_off_with_one_warning(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """/dev/full is a disk without a free byte."""
    handler = LogFile("/dev/full")
    handler.setFormatter(logging.Formatter("%(message)s"))
    own = logging.getLogger("a run on a full disk")
    own.addHandler(handler)
    try:
        for _ in range(3):
            own.warning("a line")
    finally:
        own.removeHandler(handler)
        handler.close()
    lost = [text for text in caplog.messages if "/dev/full lacks lines from here on: No " in text]
    assert len(lost) == 1
    assert "Traceback" not in capsys.readouterr().err


class Full(io.StringIO):
    """A file on a full disk."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_row_for_which_there_is_no_room_names_its_file(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, loggers="")
    writer._file = Full()
    with pytest.raises(OSError, match="No space left") as caught:
        writer.write(1, loss=2.0)
    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
