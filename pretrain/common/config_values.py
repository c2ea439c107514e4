"""Converts one value of a config, from a file or the command line, to the type of its default.

The files of defaults declare the type of the items of each list, and how many there may be. So a
wrong item of any list is found when the config is read.
"""

from __future__ import annotations

import math
import warnings
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.common.printable import printable, shown
from pretrain.common.safe_json import MOST_WHOLE
from pretrain.common.safe_yaml import has_inert, has_odd_characters

_ALLOWED: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
_WORDS = {int: "whole numbers", float: "numbers", str: "texts"}
_WORD: Mapping[type, str] = {
    **{int: "a whole number", float: "a number", str: "a text", bool: "true or false"},
    **{type(None): "a number", list: "a list", tuple: "a list", dict: "a section of keys"},
}
_DECLARED = "__lists__"  # an attribute of a CfgNode, like others that are not keys


@dataclass(frozen=True)
class Items:
    """Describes the kind and number of the items of a list.

    Attributes:
        kind: int, float (also whole numbers), str, list (rows of numbers), or object (anything; for
            a key that nothing reads).
        lengths: the allowed numbers of items; () allows any number.
    """

    kind: type
    lengths: tuple[int, ...] = ()


def declare_lists(defaults: CfgNode, lists: Mapping[str, Items]) -> None:
    """Declares the items of the lists in a config's defaults, by dotted keys; copies keep this."""
    defaults.__dict__[_DECLARED] = dict(lists)


def declared_lists(cfg: CfgNode) -> Mapping[str, Items]:
    """Returns the declarations of `declare_lists` for the defaults that a config was made from."""
    return cfg.__dict__.get(_DECLARED, {})


def coerce(value: Any, default: Any, name: str, items: Items | None = None) -> Any:
    """Returns `value` in the type of the default. An int may replace a float, and a single value a
    tuple.

    Text that is a Python literal is read as one, as in yacs: Detectron2's files have `(640, 672)`,
    and YAML 1.1 reads 1e-4 (no dot) as text. A key whose default is None takes a number, or none.

    Args:
        name: the name of the key, for the message.
        items: the declared items of a list.

    Raises InputError for a wrong type, a number that is not finite, or wrong items.
    """
    if has_inert(value):
        raise InputError(f"{name} is {value}; write its value instead")
    if isinstance(value, str) and not isinstance(default, str):
        value = parse_literal(value)
    if isinstance(value, str) and isinstance(default, (float, type(None))):
        if value.lower().lstrip("+-.") in ("nan", "inf", "infinity"):
            raise InputError(f"{name} must be a finite number, got {value}")
    if isinstance(default, (tuple, list)):
        return type(default)(_coerce_items(value, default, name, items))
    if value is None:
        if default is None:
            return None
        raise InputError(f"{name} has no value; give it one, or leave it out")
    if isinstance(default, float) and type(value) is int:
        return float(_checked(value, name))
    allowed = (int, float) if default is None else (type(default),)
    if type(value) not in allowed:
        # a text is quoted, which tells '1' from 1; other values show what they are
        raise InputError(f"{name} must be {_WORD[type(default)]}, got {shown(value)}")
    return _checked(value, name)


def _coerce_items(value: Any, default: Sequence[Any], name: str, items: Items | None) -> list[Any]:
    """Returns the items of a list, each of the declared kind, otherwise of the kind of the
    default.
    """
    found = [value] if isinstance(value, (str, int, float)) else value
    if not isinstance(found, (tuple, list)):
        raise InputError(f"{name} must be a list, got {shown(value)}")
    kind = items.kind if items else _kind_of(default)
    if kind is object:
        return list(found)
    if kind is str and isinstance(value, str):
        _check_quotes(value, name)
    if kind is list:  # rows of numbers; a single row may be flat, as in Detectron2
        numbers = all(type(item) in _ALLOWED[float] for item in found)
        return [_number_or_row(item, name, numbers) for item in found]
    if kind is not None and not all(type(item) in _ALLOWED[kind] for item in found):
        hint = " (write 1.0e-3: in YAML 1e-3 is a text)" if kind is float else ""
        raise InputError(f"{name} must be a list of {_WORDS[kind]}, got {shown(value)}{hint}")
    if items and items.lengths and len(found) not in items.lengths:
        wanted = " or ".join(map(str, items.lengths))
        raise InputError(f"{name} {shown(tuple(found))} must have {wanted} values")
    return [_checked(item, name) for item in found]


def _check_quotes(value: str, name: str) -> None:
    """Raises InputError for a text that looks like a list: a shell removed the quotes in it."""
    if (value[:1], value[-1:]) in (("[", "]"), ("(", ")")):
        texts = [part.strip().strip("\"'") for part in value[1:-1].split(",")]
        listed = ", ".join(f'"{text}"' for text in texts if text)
        raise InputError(
            f"{name} {shown(value)} is not a list: its quotes are missing, which a shell removes;"
            f" write '[{printable(listed)}]'"
        )


def _number_or_row(item: Any, name: str, flat: bool) -> Any:
    if flat:
        return _checked(item, name)
    if not isinstance(item, (tuple, list)):
        raise InputError(f"{name} must be a list of lists of numbers, got {shown(item)} in it")
    return type(item)(_coerce_items(item, (0.5,), name, None))


def _kind_of(default: Sequence[Any]) -> type | None:
    """Returns the type of the default's items, if all have the same."""
    for kind in (float, str, list):
        allowed = (tuple, list) if kind is list else _ALLOWED[kind]
        if default and all(type(item) in allowed for item in default):
            return kind
    return None


def _checked(value: Any, name: str) -> Any:
    """Returns the value; raises InputError for NaN, infinity, huge numbers or control
    characters.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}")
    if isinstance(value, int) and not -MOST_WHOLE <= value < MOST_WHOLE:
        raise InputError(f"{name} is a whole number of more than 64 bits; give a smaller one")
    if isinstance(value, str) and has_odd_characters(value):
        raise InputError(f"{name} has control characters: {shown(value)}")
    return value


def parse_literal(text: str) -> Any:
    """Returns the value of a Python literal; otherwise the text itself (as yacs reads
    overrides).
    """
    try:
        with warnings.catch_warnings():  # the compiler warns of text that is not code
            warnings.simplefilter("ignore")
            return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)
