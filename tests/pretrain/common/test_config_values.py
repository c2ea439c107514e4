"""Values of configs: every list is declared, and no key accepts a value of a wrong type."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fvcore.common.config import CfgNode

import pretrain.defaults
import transfer.classification.defaults
from pretrain.common.config import flat, load_config
from pretrain.common.config_values import declared_lists, parse_literal
from pretrain.common.errors import InputError
from transfer.detection.defaults import make_defaults

DEFAULTS = (
    pretrain.defaults.get_defaults,
    transfer.classification.defaults.get_defaults,
    make_defaults,
)
NOT_NUMBERS = ("nan", "1e999", "-1e999", "(1,)", "{}", "'x'", "b'x'", "1j", "0x" + "f" * 9000)
NO_ITEMS = ("({},)", "(None,)", "(True,)", "(b'x',)", "1j", "{1: 2}", "None")


def keys(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("make", DEFAULTS)
def test_every_list_is_declared_and_its_default_fits(make: Callable[[], CfgNode]) -> None:
    defaults = make()
    lists = {key: value for key, value in keys(defaults) if isinstance(value, (tuple, list))}
    assert set(lists) == set(declared_lists(defaults)) == set(declared_lists(defaults.clone()))
    for key, value in lists.items():
        items = declared_lists(defaults)[key]
        assert not items.lengths or len(value) in items.lengths, key
        allowed = {float: (int, float), list: (list, tuple)}.get(items.kind, items.kind)
        assert all(isinstance(item, allowed) for item in value), key


@pytest.mark.parametrize("make", DEFAULTS)
def test_no_key_takes_what_its_type_cannot_mean(make: Callable[[], CfgNode], tmp_path: Any) -> None:
    (tmp_path / "empty.yaml").write_text("")
    defaults, before = make(), copy.deepcopy(flat(make()))
    wrong: list[str] = []
    for key, value in keys(defaults):
        if isinstance(value, (tuple, list)):
            items = declared_lists(defaults)[key]
            bad = NO_ITEMS + (("('a',)",) if items.kind is not str else ())
            bad += ("((1,),)",) if items.kind is not list else ("((1, 'a'),)",)
            bad += ("(1, 2, 3, 4, 5, 6, 7, 8, 9)",) if items.lengths else ()
        elif isinstance(value, (int, float)):  # bool too
            bad = NOT_NUMBERS
        else:
            bad = ("5", "(1,)", "'\x07'") if value is not None else ("nan", "'x'", "(1,)")
        for text in bad:
            try:
                load_config(str(tmp_path / "empty.yaml"), defaults, [key, text])
                wrong.append(f"{key} {text}")
            except InputError as error:
                message = str(error)
                assert key in message and message.isprintable() and len(message) < 500
    assert not wrong and flat(defaults) == before


@pytest.mark.parametrize(
    ("value", "remedy"),
    [
        ("[coco:a:train]", """write '["coco:a:train"]'"""),
        ("(coco:a:train,)", """write '["coco:a:train"]'"""),
        ("(coco:a:train, voc:b:train)", """write '["coco:a:train", "voc:b:train"]'"""),
        ("['coco:a:train', voc:b:train]", """write '["coco:a:train", "voc:b:train"]'"""),
    ],
)
def test_a_list_whose_quotes_a_shell_removed_is_named(value: str, remedy: str) -> None:
    with pytest.raises(InputError, match=re.escape(remedy)) as told:
        load_config("voc_mscn.yaml", make_defaults(), ["DATASETS.TRAIN", value], folder="detection")
    assert "DATASETS.TRAIN" in str(told.value) and "its quotes are missing" in str(told.value)


def test_the_list_that_the_remedy_names_is_read() -> None:
    for value in ('["coco:a:train", "voc:b:train"]', "('coco:a:train', 'voc:b:train')"):
        overrides = ["DATASETS.TRAIN", value]
        cfg = load_config("voc_mscn.yaml", make_defaults(), overrides, folder="detection")
        assert tuple(cfg.DATASETS.TRAIN) == ("coco:a:train", "voc:b:train")


def test_literals() -> None:
    assert parse_literal("(1, 'x')") == (1, "x") and parse_literal("TRUE") is True
    for text in ("(" * 5000, "{[]: 1}", "a b", "1" * 5000, "'\\d'"):
        assert isinstance(parse_literal(text), str)
