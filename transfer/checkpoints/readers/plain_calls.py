"""Replacements for Python's classes and functions that a pickle calls; they make plain values.

A pickle of plain values calls few of them (`set`, `bytes` and `OrderedDict` in old protocols). With
other arguments even harmless ones do harm: `bytes(10**12)` takes the memory, `str` of lists that
share their parts never ends, the hash of a deeply nested tuple overflows the stack. So each accepts
only the arguments that real files have.
"""

from __future__ import annotations

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from transfer.checkpoints.readers.reading_budget import PER_ITEM, spend
from transfer.checkpoints.readers.refused_content import ForbiddenGlobal, NotPlain

LONGEST_SCALAR = 100  # number of characters of a number as text
LONGEST_KEY = 64  # number of items of a tuple that is a key
DEEPEST_KEY = 3
_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict)
_KEYS = (str, bytes, float, complex, bool, type(None), PurePosixPath, PureWindowsPath)


def checked_key(key: Any, depth: int = 0) -> Any:
    """Returns the key of a mapping, or the member of a set, if hashing it is quick and safe.

    Raises:
        NotPlain: it is not a key that a real file has.
    """
    plain = type(key) in _KEYS or type(key) is int and abs(key) < 1 << 64
    if plain or isinstance(key, np.generic):
        return key
    if type(key) is tuple and depth < DEEPEST_KEY and len(key) <= LONGEST_KEY:
        for one in key:
            checked_key(one, depth + 1)
        return key
    raise NotPlain(f"a mapping with a key that is not a name or number ({type(key).__name__})")


def no_bytes(value: Any = b"") -> bytes:
    """Replaces `bytes`, which old pickles call for empty bytes.

    Raises NotPlain for anything but bytes: a number would allocate memory.
    """
    if type(value) not in (bytes, bytearray):
        raise NotPlain(f"a call of bytes with a value of the kind {type(value).__name__}")
    spend(len(value))
    return bytes(value)


def made_bytearray(value: Any = b"", encoding: Any = "latin1") -> bytearray:
    """Replaces `bytearray` as pickles call it: with bytes, or with a text in latin1."""
    if type(value) is str and encoding in ("latin1", "latin-1"):
        spend(len(value))
        value = value.encode("latin1")
    return bytearray(no_bytes(value))


def encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """Replaces `_codecs.encode` as old pickles of bytes use it; other codecs are not needed."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        name = encoding[:20] if type(encoding) is str else type(encoding).__name__
        raise ForbiddenGlobal(f"_codecs.encode to {name!r}")
    spend(len(text))
    return text.encode("latin1")


def _number_or_text(kind: type) -> Callable[..., Any]:
    def made(value: Any = kind()) -> Any:
        plain = type(value) in (bool, int, float, complex)
        if not plain and not (type(value) is str and len(value) <= LONGEST_SCALAR):
            raise NotPlain(f"a call of {kind.__name__} with a {type(value).__name__}")
        return kind(value)

    made.__doc__ = f"`{kind.__name__}` of a number or a short text."
    return made


def _items(kind: type, value: Any) -> Iterable[Any]:
    if type(value) not in _CONTAINERS:
        raise NotPlain(f"a call of {kind.__name__} with a {type(value).__name__}")
    spend(PER_ITEM * len(value))
    return value


def _sequence(kind: type) -> Callable[..., Any]:
    def made(value: Any = ()) -> Any:
        items = _items(kind, value)
        return kind(map(checked_key, items) if kind in (set, frozenset) else items)

    made.__doc__ = f"`{kind.__name__}` of the items of a plain container."
    return made


def _mapping(kind: type) -> Callable[..., Any]:
    def made(value: Any = (), **named: Any) -> Any:
        items = _items(kind, value)
        pairs = list(items.items()) if isinstance(items, dict) else list(items)
        if any(type(pair) not in (tuple, list) or len(pair) != 2 for pair in pairs):
            raise NotPlain(f"a call of {kind.__name__} with items that are not pairs")
        spend(PER_ITEM * len(named))
        return kind([(checked_key(key), one) for key, one in (*pairs, *named.items())])

    made.__doc__ = f"`{kind.__name__}` of a mapping or of pairs."
    return made


def _path(kind: type[PurePath]) -> Callable[..., PurePath]:
    def made(*parts: Any) -> PurePath:
        if any(type(part) is not str for part in parts):
            raise NotPlain("a path whose parts are not texts")
        spend(sum(map(len, parts)))
        return kind(*parts)

    made.__doc__ = f"`{kind.__name__}` of texts: only a name; no file is opened."
    return made


def namespace(**named: Any) -> Namespace:
    """Replaces `argparse.Namespace`: returns one with these attributes."""
    return Namespace(**named)


_OF_BUILTINS: tuple[tuple[str, Callable[..., Any]], ...] = (
    *((kind.__name__, _number_or_text(kind)) for kind in (bool, int, float, str)),
    *((kind.__name__, _sequence(kind)) for kind in (list, tuple, set, frozenset)),
    ("dict", _mapping(dict)),
    ("bytes", no_bytes),
    ("bytearray", made_bytearray),
)
CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    (module, name): call for module in ("builtins", "__builtin__") for name, call in _OF_BUILTINS
}
CALLS |= {
    ("collections", "OrderedDict"): _mapping(OrderedDict),
    ("argparse", "Namespace"): namespace,
    ("_codecs", "encode"): encoded,
}
made_dict = CALLS["builtins", "dict"]
# Paths of all operating systems.
PATHS: dict[tuple[str, str], Callable[..., PurePath]] = {
    (module, name): call
    for module in ("pathlib", "pathlib._local")
    for names, call in (
        (("PosixPath", "PurePosixPath"), _path(PurePosixPath)),
        (("WindowsPath", "PureWindowsPath"), _path(PureWindowsPath)),
    )
    for name in names
}
