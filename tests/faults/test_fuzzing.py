"""The fuzzing framework itself: it finds, shrinks and distinguishes each kind of fault."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.common.errors import InputError
from tests.faults import fuzzing
from tests.faults.fuzzing import Fault, bytes_of, check_message, fuzz
from tests.faults.mutations import edited_bytes, edited_tree


def run(read: object, folder: Path, few: int = 200) -> Counter[str]:
    cases = edited_bytes([b"a valid file of some bytes"])
    return fuzz("none", cases, bytes_of, read, folder / "input.bin", few)  # type: ignore[arg-type]


def first_byte(file: Path) -> int:
    return (file.read_bytes() or b"\0")[0]


def accepts(file: Path) -> None:
    """Wants the first byte."""
    if first_byte(file) != ord("a"):
        raise InputError(f"{file} does not begin with a")


def escapes(file: Path) -> None:
    accepts(file)
    if b"z" in file.read_bytes():
        raise KeyError("z")


def test_both_good_answers_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAULTS_COUNTS", str(tmp_path / "counts"))
    monkeypatch.setenv("FAULTS_CASES", "300")
    counts = run(accepts, tmp_path)
    assert counts["ok"] > 50 and counts["refused"] > 5 and sum(counts.values()) == 300
    row = json.loads((tmp_path / "counts").read_text())
    expected = {"reader": "none", "cases": 300, "ok": counts["ok"], "refused": counts["refused"]}
    assert {key: row[key] for key in expected} == expected


def test_an_escape_is_found_and_its_input_kept_small(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="(?s)none: .*KeyError: 'z'.*input.bin"):
        fuzz(
            "none",
            st.binary(max_size=50).map(lambda data: b"a" + data),
            bytes_of,
            escapes,
            tmp_path / "input.bin",
            3000,
        )
    assert (tmp_path / "input.bin").read_bytes() == b"az"


def hangs(file: Path) -> None:
    for _ in itertools.count():
        pass


def hangs_in_c(file: Path) -> None:
    sum(itertools.count())


def waits(file: Path) -> None:
    time.sleep(100)


@pytest.mark.parametrize(
    "read, what",
    [
        (hangs, "over 0.3 s of CPU time"),
        (hangs_in_c, "that no exception ends"),
        (waits, "over 1 s of waiting"),
    ],
)
def test_a_hang_is_found(
    read: object, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "CPU_SECONDS", 0.3)
    monkeypatch.setattr(fuzzing, "WAIT_SECONDS", 1)
    with pytest.raises(Fault, match=f"a hang.* {what}"):
        run(read, tmp_path, 1)


def test_a_busy_machine_is_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock goes on, but the process has not slept: others had the CPU. It looks again."""
    looks: list[float] = []

    def waited() -> float:
        looks.append(0.2 if looks else 0.0)
        return looks[-1]

    monkeypatch.setattr(fuzzing, "WAIT_SECONDS", 0.25)
    monkeypatch.setattr(fuzzing, "waited_seconds", waited)
    with fuzzing.time_limit(30):
        while len(looks) < 3:
            time.sleep(0.01)


def test_sleep_counts_as_waiting_and_work_does_not() -> None:
    began = fuzzing.waited_seconds()
    time.sleep(0.3)
    slept = fuzzing.waited_seconds() - began
    used = time.process_time()
    while time.process_time() < used + 0.3:
        pass
    assert slept >= 0.29
    assert fuzzing.waited_seconds() - began - slept < 0.1


def test_a_crash_is_found(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="a crash: .*SIGSEGV"):
        run(lambda file: ctypes.string_at(0), tmp_path)


def test_a_process_that_ends_is_found(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="ended with status 3"):
        run(lambda file: os._exit(3), tmp_path)
    with pytest.raises(Fault, match="ended the program"):
        run(lambda file: exit(0), tmp_path)


def test_too_much_memory_is_found(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="memory"):
        run(lambda file: bytearray(8 << 30), tmp_path)


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("x.pth is\ndamaged", "not printable"),
        ("x.pth has \x1b[31m", "not printable"),
        ("x.pth has \ud800", "not printable"),
        ("x.pth " + "a" * 2000, "2006 characters"),
        ("the file is damaged", "does not name"),
    ],
)
def test_a_bad_message_is_found(text: str, wrong: str) -> None:
    with pytest.raises(Fault, match=wrong):
        check_message(text, "x.pth")
    check_message("x.pth is damaged; copy it again", "x.pth")
    check_message("x.pth\nis damaged", "x.pth", lines=2)


TREE = {"a": [1, 2, {"b": "text"}], "c": {"d": None, "e": [0.5]}}


@settings(database=None, max_examples=100, deadline=None)
@given(edited_tree(TREE))
def test_the_valid_tree_is_never_changed_itself(tree: object) -> None:
    assert TREE == {"a": [1, 2, {"b": "text"}], "c": {"d": None, "e": [0.5]}}


EDITED = {
    "tree": edited_tree(TREE),
    "bytes": edited_bytes([b"0123456789" * 9], focus=[(-4, 90)], tokens=[b"TOKEN"]),
}


@pytest.mark.parametrize("kind", EDITED)
def test_inputs_are_edited_in_many_ways(kind: str) -> None:
    seen: list[str] = []

    @settings(database=None, max_examples=300, deadline=None, derandomize=True)
    @given(EDITED[kind])
    def draw(case: object) -> None:
        seen.append(repr(case))

    draw()
    assert len(set(seen)) > 150
    assert kind == "tree" or any("TOKEN" in one for one in seen)
