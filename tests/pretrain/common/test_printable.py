"""Text from files becomes one printable line; InputErrors and logs use that."""

from __future__ import annotations

import logging
import pickle

import pytest

from pretrain.common.errors import MOST_OF_MESSAGE, InputError
from pretrain.common.findings import Findings
from pretrain.common.printable import PrintableFormatter, printable, printable_tree, shown

STEERING = "a\x1b[31mb\r\n\x07c\u202ed\ufeff\x85\u2028\ud800e"


def test_what_prints_stays_as_it_is() -> None:
    for text in ("", "plain", "große Füße", "图像 三", "a\u3000b", "é" * 200):
        assert printable(text) == text


def test_characters_that_steer_are_escaped_and_long_texts_cut() -> None:
    found = printable(STEERING)
    assert found == r"a\x1b[31mb\r\n\x07c\u202ed\ufeff\x85\u2028\ud800e" and found.isprintable()
    assert printable(found) == found
    for long in ("x" * 2_000_000, "\x1b" * 5000, "\ud800" * 199):
        found = printable(long)
        assert len(found) <= 200 and found.isprintable() and printable(found) == found
    assert printable("begin" + "x" * 1000 + "end").startswith("begin")
    assert printable("begin" + "x" * 1000 + "end").endswith("end")
    assert shown(["\n" * 50]) == printable(repr(["\n" * 50]), 60)
    assert shown([10**9000]).isprintable()


def test_a_tree_keeps_different_texts_different() -> None:
    tree = {"x" * 900: ["y" * 900, "z\n", 1.5, None], "x" * 901: {"\x1b": True}}
    found = printable_tree(tree)
    assert len(found) == 2 and all(len(key) <= 200 for key in found)
    assert list(found.values())[1] == {r"\x1b": True} and list(found.values())[0][1:] == [
        r"z\n",
        1.5,
        None,
    ]


def test_an_error_is_one_line_whatever_it_quotes() -> None:
    error = InputError(f"{STEERING} is missing; {'very ' * 900}well restore it")
    assert str(error).isprintable() and len(str(error)) <= MOST_OF_MESSAGE
    assert str(error).endswith("well restore it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(InputError("one", "two\n")) == "one\nerror: two\\n"
    findings = Findings("list\x1b.txt")
    for number in range(5):
        findings.refuse("names are odd", STEERING * 100 + str(number), "correct them")
    with pytest.raises(InputError) as raised:
        findings.report()
    assert str(raised.value).isprintable() and "(5, first: a" in str(raised.value)


def test_a_log_line_cannot_be_forged() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "two\nlines %s", ("\x1b[2J",), None)
    assert PrintableFormatter("%(message)s").format(record) == "two\nlines \\x1b[2J"
