"""The reader of long JSON files against that of the standard library."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transfer.datasets import json_records
from transfer.datasets.json_records import read_object

CONTENT = {
    "info": {"a": [1, -2.5e-3, True, None, 'é \U0001f600 \\u0041 "] ,'], "b": {}},
    "annotations": [{"id": 12345, "x": [0.1, 123456789.25]}, 17, [], "text", {"deep": [[{}]]}],
    "empty": [],
    "images": [1],
    "last": 123456,
}


@pytest.fixture(params=[1, 2, 7, 1 << 22])
def characters(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_records, "CHARACTERS", request.param)


@pytest.mark.usefixtures("characters")
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_values_are_the_standard_librarys(tmp_path: Path, indent: int, encoding: str) -> None:
    path = tmp_path / "x.json"
    text = json.dumps(CONTENT, ensure_ascii=False, indent=indent)
    path.write_text(f" {text}\r\n\t", encoding=encoding)
    found = read_object(path, {"annotations": tuple, "empty": tuple, "missing": tuple})
    assert found.pop("annotations") == tuple(CONTENT["annotations"])
    assert found.pop("empty") == ()
    assert found == {key: CONTENT[key] for key in ("info", "images", "last")}


def test_damage_raises(tmp_path: Path) -> None:
    path, text = tmp_path / "x.json", json.dumps(CONTENT)
    for end in range(len(text)):
        path.write_text(text[:end])
        with pytest.raises(ValueError):
            read_object(path, {"annotations": list})
    for damaged in (
        f"{text}x",
        text.replace("17,", "17"),
        text.replace(":", ";", 1),
        "[]",
        "{1: 2}",
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError):
            read_object(path, {"annotations": list})


def test_a_repeated_key_is_left_to_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(ValueError, match="twice"):
        read_object(tmp_path / "x.json", {})
