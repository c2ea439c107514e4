"""Config files from strangers: values are read, whichever program wrote them; no code is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml
from fvcore.common.config import CfgNode

from pretrain.common.config import load_config, load_keys
from pretrain.common.errors import InputError
from pretrain.common.safe_yaml import has_inert, read_config_file

VALUES = {"A": 1, "B": (1, 2), "C": {"D": [1.5, "x"], "E": None}}


def node() -> CfgNode:
    return CfgNode(VALUES)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_config(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "config.yaml").write_bytes(pickle.dumps(node(), protocol))
    assert read_config_file(tmp_path / "config.yaml") == VALUES


def test_a_config_dumped_with_its_class(tmp_path: Path) -> None:
    text = yaml.dump(node())
    assert "!!python/object/new:fvcore.common.config.CfgNode" in text
    (tmp_path / "config.yaml").write_text(text)
    assert read_config_file(tmp_path / "config.yaml") == VALUES


def test_no_code_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    order = f"open({str(mark)!r}, 'w')"
    path = tmp_path / "config.yaml"
    path.write_text(
        f'A: !!python/object/apply:eval ["{order}"]\nB: [1, !!python/name:os.system ""]'
    )
    content = read_config_file(path)
    assert has_inert(content["A"]) and has_inert(content["B"]) and not mark.exists()
    with pytest.raises(InputError, match=r"A is `!!python/object/apply:eval`, .* not run"):
        load_config(str(path), node())

    class Evil:
        def __reduce__(self) -> tuple:
            return open, (str(mark), "w")

    path.write_bytes(pickle.dumps({"A": Evil()}))
    with pytest.raises(InputError, match="config.yaml: .*asks for .*open"):
        load_config(str(path), node())
    assert not mark.exists()
    path.write_bytes(pickle.dumps(VALUES)[:-9])
    with pytest.raises(InputError, match="config.yaml: not readable"):
        load_config(str(path), node())


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text("AA: 1\nC: {DD: 2, E: 3}\nA: many\nFAR_OFF: 3")
    with pytest.raises(InputError) as error:
        load_config(str(path), node())
    text = str(error.value)
    assert "top.yaml: unknown keys AA (did you mean 'A'?), C.DD (did you mean" in text
    assert "FAR_OFF; A must be a whole number, got 'many'" in text and "\n" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("STEPS: (60000, 80000)", (60000, 80000)),  # text in YAML, a literal for yacs
        ("STEPS: '[5]'", (5,)),
        ("STEPS: 7", (7,)),
        ("STEPS: (9)", (9,)),
    ],
)
def test_literals_that_yaml_takes_for_text(tmp_path: Path, text: str, expected: tuple) -> None:
    path = tmp_path / "top.yaml"
    path.write_text(text)
    assert load_config(str(path), CfgNode({"STEPS": (1, 2)})).STEPS == expected


def test_items_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "top.yaml"
    path.write_text("STEPS: [many]\nNAMES: [3]")
    defaults = CfgNode({"STEPS": (1, 2), "NAMES": ["res4"]})
    with pytest.raises(InputError, match="STEPS must be a list of numbers.*NAMES .* of texts"):
        load_config(str(path), defaults)


def test_some_keys_of_a_foreign_file(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("A: 5\nOTHER: {X: 1}")
    path = tmp_path / "top.yaml"
    path.write_text("_BASE_: base.yaml\nC: {D: [2.5], NOT_OURS: 1}\nB: nonsense")
    found = load_keys(path, node(), ("A", "C.D"))
    assert (found.A, found.B, found.C.D, found.C.E) == (5, (1, 2), [2.5], None)
    path.write_text("A: many")
    with pytest.raises(InputError, match="top.yaml: A must be a whole number"):
        load_keys(path, node(), ("A",))


BOMB = "\n".join(f"K{n}: &k{n} [{', '.join([f'*k{n - 1}' if n else 'x'] * 10)}]" for n in range(9))


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "A: &a [*a]",
        "A: &a {b: *a}",
        "\n".join(f"K{n}: &k{n} [{f'*k{n - 1}' if n else 1}]" for n in range(60)),
        "A: " + "[" * 3000,
        "A: " + "{a: " * 300,
        "A: 2020-01-01",
        "A: 2020-99-99",
        "A: 2020-01-01 99:99:99",
        "A: !!timestamp 1",
        "A: !!binary aGVsbG8=",
        "A: !!omap [a: 1]",
        "A: !!set {a}",
        "A: !!int x",
        "A: !!float x",
        "A: !!bool x",
        "A: !!python/int x",
        "A: !mine 1",
        "A: 0x" + "f" * 9000,
        "A: " + "9" * 9000,
        "A: -9223372036854775809",
        "A: .nan",
        'A: "\\ud800"',
        'E: "\\0"',
        "A: *nope",
        "<<: [1]",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "%TAG",
        "\t",
        "- [1]\n" * 40_000,
        "A: " + "x" * 600_000,
        "_BASE_: " + "x" * 5000,
        "_BASE_: [1]",
        "1: 2",
        "null: 2",
    ],
)
def test_one_line_whatever_the_file_unfolds_to(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as raised:
        load_config(str(path), CfgNode({**VALUES, "F": 0.5}))
    message = str(raised.value)
    assert str(path) in message and message.isprintable() and len(message) < 2000


def test_aliases_serve_within_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("A: &one 5\nC: {D: &list [1, 2], E: *one}\nB: *list")
    cfg = load_config(str(path), CfgNode(VALUES))
    assert cfg.B == (1, 2) and cfg.C.D == [1, 2] and cfg.C.E == 5


def test_a_pickle_that_shares_its_children_is_not_unfolded(tmp_path: Path) -> None:
    value: list = [1]
    for _ in range(40):
        value = [value, value]
    path = tmp_path / "c.yaml"
    for content in ({"A": value}, {"A": 1 << 9000}, {"E": "\0"}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match="not readable"):
            load_config(str(path), CfgNode(VALUES))
