"""Progress bars as tqdm writes them into a log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tqdm import tqdm

from transfer.suite.bars import Bar, last_bar, last_line, parse_bar


def test_what_tqdm_writes_is_read(tmp_path: Path) -> None:
    """Against tqdm itself: every state of a bar, found again in a log between other lines."""
    log = tmp_path / "log"
    with log.open("w") as file:
        file.write("12:00:01 I something: starts\n")
        bar = tqdm(total=40, desc="features of a:b: c", file=file, mininterval=0, unit="batch")
        for done in range(1, 4):
            time.sleep(0.02)
            bar.set_postfix(loss=f"{done}.5", refresh=False)
            bar.update(7)
            file.flush()
            found = last_bar(log)
            assert (found.stage, found.done, found.total) == ("features of a:b: c", 7 * done, 40)
            assert found.note == f"loss={done}.5" and found.left is not None
        file.write("\nno bar: 10/20 done\n")
    assert last_bar(log).done == 21 and last_line(log) == "no bar: 10/20 done"


@pytest.mark.parametrize(
    "line, expected",
    [
        (
            "train:   5%|5         | 1200/24000 [1:00:00<19:00:00,  3.00s/it, loss=0.83, lr=0.02]",
            Bar("train", 1200, 24000, 3600.0, 68400.0, "loss=0.83, lr=0.02"),
        ),
        ("train:   0%|          | 0/300 [00:00<?, ?it/s]", Bar("train", 0, 300, 0.0, None)),
        ("3/4 [x", None),
        ("12:00:01 I a: 50% of 3/4 [done]", None),
    ],
)
def test_lines(line: str, expected: Bar | None) -> None:
    assert parse_bar(line) == expected


def test_a_log_that_is_not_there_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "gone"):
        assert last_bar(tmp_path / name) is None and last_line(tmp_path / name) == "no output"
