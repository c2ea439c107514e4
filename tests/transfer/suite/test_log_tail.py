from pathlib import Path

from transfer.suite.log_tail import last_line


def test_the_last_state_of_a_bar_and_the_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("12:00 I starts\ntrain:  10%|#  | 1/10\rtrain:  20%|## | 2/10")
    assert last_line(log) == "train:  20%|## | 2/10"
    log.write_text(log.read_text() + "\nerror: no such file\n\n")
    assert last_line(log) == "error: no such file"


def test_a_log_that_is_not_there_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert {last_line(tmp_path / name) for name in ("empty", "gone")} == {"no output"}
