"""Config files from strangers: the values are read, whatever wrote them, and no code is run."""

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
    assert "FAR_OFF; A must be int, got str 'many'" in text and "\n" not in text


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
    with pytest.raises(InputError, match="top.yaml: A must be int"):
        load_keys(path, node(), ("A",))
