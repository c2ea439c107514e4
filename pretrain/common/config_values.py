"""One value of a config, from a file or the command line, in the type that its key has by default.

The defaults files declare what each item of a list is, and how many there may be. So a wrong item
is found when the config is read, whatever the key is.
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
from pretrain.common.printable import shown
from pretrain.common.safe_json import MOST_WHOLE
from pretrain.common.safe_yaml import has_inert, has_odd_characters

_ALLOWED: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}
_WORDS = {int: "whole numbers", float: "numbers", str: "texts"}
_DECLARED = "__lists__"  # beside the attributes that a CfgNode keeps outside of its keys


@dataclass(frozen=True)
class Items:
    """What a list holds.

    Attributes:
        kind: int, float (whole numbers too), str, list: rows of numbers, or object: anything, of
            a key that nothing reads.
        lengths: how many items there may be; (): any number of them.
    """

    kind: type
    lengths: tuple[int, ...] = ()


def declare_lists(defaults: CfgNode, lists: Mapping[str, Items]) -> None:
    """Says what the lists of a config's defaults hold, by their dotted keys; copies keep it."""
    defaults.__dict__[_DECLARED] = dict(lists)


def declared_lists(cfg: CfgNode) -> Mapping[str, Items]:
    """What `declare_lists` said of the defaults that a config was made from."""
    return cfg.__dict__.get(_DECLARED, {})


def coerce(value: Any, default: Any, name: str, items: Items | None = None) -> Any:
    """Returns `value` in the default's type; an int serves as float, a single value as a tuple.

    Text that is a Python literal is one, as yacs has it: Detectron2's files hold `(640, 672)`, and
    YAML 1.1 reads 1e-4 (no dot) as text. A key whose default is None takes a number, or none.

    Args:
        name: of the key, for the message.
        items: what the defaults declare of a list.

    Raises InputError for another type, a number that is not finite, or other items.
    """
    if has_inert(value):
        raise InputError(f"{name} is {value}; write its value")
    if isinstance(value, str) and not isinstance(default, str):
        value = parse_literal(value)
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
        expected = "a number" if default is None else type(default).__name__
        raise InputError(f"{name} must be {expected}, got {type(value).__name__} {shown(value)}")
    return _checked(value, name)


def _coerce_items(value: Any, default: Sequence[Any], name: str, items: Items | None) -> list[Any]:
    """The items of a list, each of the declared kind, else of the default's."""
    found = [value] if isinstance(value, (str, int, float)) else value
    if not isinstance(found, (tuple, list)):
        raise InputError(f"{name} must be a list, got {shown(value)}")
    kind = items.kind if items else _kind_of(default)
    if kind is object:
        return list(found)
    if kind is list:  # of rows of numbers; one row may be given flat, as Detectron2 has it
        numbers = all(type(item) in _ALLOWED[float] for item in found)
        return [_number_or_row(item, name, numbers) for item in found]
    if kind is not None and not all(type(item) in _ALLOWED[kind] for item in found):
        hint = " (write 1.0e-3: in YAML 1e-3 is a text)" if kind is float else ""
        raise InputError(f"{name} must be a list of {_WORDS[kind]}, got {shown(value)}{hint}")
    if items and items.lengths and len(found) not in items.lengths:
        wanted = " or ".join(map(str, items.lengths))
        raise InputError(f"{name} {shown(tuple(found))} must have {wanted} values")
    return [_checked(item, name) for item in found]


def _number_or_row(item: Any, name: str, flat: bool) -> Any:
    if flat:
        return _checked(item, name)
    if not isinstance(item, (tuple, list)):
        raise InputError(f"{name} must be a list of lists of numbers, got {shown(item)} in it")
    return type(item)(_coerce_items(item, (0.5,), name, None))


def _kind_of(default: Sequence[Any]) -> type | None:
    """Of the default's items, if all are alike."""
    for kind in (float, str, list):
        allowed = (tuple, list) if kind is list else _ALLOWED[kind]
        if default and all(type(item) in allowed for item in default):
            return kind
    return None


def _checked(value: Any, name: str) -> Any:
    """A value that any key of its type may have; InputError for NaN, infinity and the like."""
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}")
    if isinstance(value, int) and not -MOST_WHOLE <= value < MOST_WHOLE:
        raise InputError(f"{name} is a whole number of more than 64 bits; give a smaller one")
    if isinstance(value, str) and has_odd_characters(value):
        raise InputError(f"{name} has control characters: {shown(value)}")
    return value


def parse_literal(text: str) -> Any:
    """A Python literal where it is one, else the text itself (as yacs reads overrides)."""
    try:
        with warnings.catch_warnings():  # of the compiler, about what is no code
            warnings.simplefilter("ignore")
            return literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False}.get(text.lower(), text)
