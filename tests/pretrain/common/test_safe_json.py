"""JSON from strangers gives values or one ValueError; also paths that are not ordinary files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pretrain.common.regular_file import read_regular
from pretrain.common.safe_json import MOST_DEPTH, parse_json, read_json

VALUE = {"a": [1, -(2**63), 2**63 - 1, 1.5e300, None, True], "\u00e4": {"b": "\U0001f600"}}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
def test_values(tmp_path: Path, encoding: str) -> None:
    for ascii_only in (True, False):
        text = json.dumps(VALUE, ensure_ascii=ascii_only)
        (tmp_path / "a.json").write_bytes(text.encode(encoding))
        assert read_json(tmp_path / "a.json") == VALUE
    nested = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert json.dumps(parse_json(nested)) == nested


@pytest.mark.parametrize(
    "text",
    [
        "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1),
        "[" * 100_000,
        '{"a":' * 500 + "1" + "}" * 500,
        "[" * 900 + "]" * 900,
        '{"a": 1, "a": 2}',
        '[{"b": 1, "c": [], "b": 1}]',
        str(2**63),
        "-" + "9" * 5000,
        '"\\ud800"',
        '{"\\uD83D": 1}',
        "",
        "{",
        b"\xff\xfe\x00",
        b"\xff" * 9,
    ],
)
def test_what_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError) as raised:
        parse_json(text)
    assert len(str(raised.value)) < 300


def test_what_is_not_a_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(40 << 30)
    began = time.monotonic()
    places = (tmp_path / "fifo", tmp_path / "sparse", tmp_path, tmp_path / "none", "/dev/zero")
    for path in (*places, "x" * 5000, "a\0b", "\ud800"):
        with pytest.raises(OSError) as raised:
            read_regular(path, 1000)
        assert raised.value.strerror
    assert time.monotonic() - began < 2
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert read_regular(tmp_path / "a", 1000) == b"x" * 1000
    with pytest.raises(OSError, match="larger than"):
        read_regular(tmp_path / "a", 999)
