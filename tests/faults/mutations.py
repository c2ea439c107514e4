"""Hypothesis strategies that damage valid input: bytes of any file, and trees of plain values.

A case is drawn as a few edits of a valid seed, so Hypothesis can shrink a failure to the one edit
that matters. `edited_bytes` works for any format. `edited_tree` works for the content of JSON, YAML
and pickles, and changes fields to values of any other type, length and size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

MOST_EDITS = 4
LONGEST_EDIT = 32  # bytes that one edit inserts, removes or copies
EXTREMES = (
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xff" * 7 + b"\x7f",
    b"9" * 8,
)
# Field values that readers have met and not expected.
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63) - 1,
    10**310,
    1.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    -1e308,
    "",
    " ",
    "a",
    "1",
    "1e999",
    "nan",
    "\x00",
    "\n",
    "\x1b[31mred",
    "\u202eodd",
    "\ud800",
    "../../../../etc/hostname",
    "/dev/zero",
    "x" * 300,
    "x" * 5000,
    "<script>alert(1)</script>",
    "=1+1",
    [],
    {},
    [[]],
    [None],
    [float("nan")] * 3,
    [1, 2, 3, 4],
    [0] * 1000,
    {"a": 1},
    {"": {}},
    {"a": {"b": {"c": [1, {"d": None}]}}},
)


def odd_values() -> SearchStrategy[Any]:
    """A plain value of any type, length and size."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    trees = st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    )
    return st.sampled_from(ODD).map(copy.deepcopy) | trees


@st.composite
def edited_bytes(
    draw: DrawFn,
    seeds: Sequence[bytes],
    *,
    focus: Sequence[tuple[int, int]] = (),
    tokens: Sequence[bytes] = (),
) -> bytes:
    """One of some valid files with a few edits: flips, insertions, deletions, splices, truncation.

    Args:
        focus: ranges (begin, end) of the bytes in which half of the edits are made (headers,
            directories), of all seeds; negative numbers count from the end.
        tokens: byte strings of the format that are inserted or written over others.
    """
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, MOST_EDITS))):
        _edit(draw, data, seeds, focus, tokens)
    return bytes(data)


def _edit(
    draw: DrawFn,
    data: bytearray,
    seeds: Sequence[bytes],
    focus: Sequence[tuple[int, int]],
    tokens: Sequence[bytes],
) -> None:
    """One edit, in place."""
    if not data:
        return
    at = _place(draw, len(data), focus)
    length = draw(st.integers(1, LONGEST_EDIT))
    kinds = ["flip", "set", "insert", "delete", "copy", "extreme", "splice", "truncate"]
    kind = draw(st.sampled_from(kinds + ["token"] * (3 if tokens else 0)))
    if kind == "flip":
        data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "set":
        data[at] = draw(st.integers(0, 255))
    elif kind == "insert":
        data[at:at] = draw(st.binary(min_size=1, max_size=8))
    elif kind == "delete":
        del data[at : at + length]
    elif kind == "copy":
        source = draw(st.integers(0, len(data) - 1))
        data[at : at + length] = data[source : source + length]
    elif kind == "extreme":
        extreme = draw(st.sampled_from(EXTREMES))
        data[at : at + len(extreme)] = extreme
    elif kind == "splice":  # the beginning of one file, the end of a different one
        other = draw(st.sampled_from(seeds))
        data[at:] = other[draw(st.integers(0, len(other))) :]
    elif kind == "truncate":
        del data[at:]
    else:
        token = draw(st.sampled_from(tokens))
        data[at : at + draw(st.sampled_from((0, len(token))))] = token


def _place(draw: DrawFn, length: int, focus: Sequence[tuple[int, int]]) -> int:
    begin, end = 0, length
    if focus and draw(st.booleans()):
        begin, end = (
            min(max(n + length if n < 0 else n, 0), length) for n in draw(st.sampled_from(focus))
        )
    return draw(st.integers(begin, max(begin, end - 1, 0))) if begin < length else length - 1


@st.composite
def edited_tree(
    draw: DrawFn,
    tree: Any,
    *,
    odd: SearchStrategy[Any] | None = None,
    odd_leaf: Callable[[Any], SearchStrategy[Any]] | None = None,
    most_edits: int = 3,
) -> Any:
    """A copy of nested dicts and lists with some fields changed, removed, renamed or moved.

    Args:
        odd: values for changed fields; `odd_values` if none are given.
        odd_leaf: for values that are not plain ones, such as tensors: what may replace one.
    """
    odd = odd_values() if odd is None else odd
    tree = _copied(tree)
    for _ in range(draw(st.integers(1, most_edits))):
        places = _places(tree)
        if not places:
            return draw(odd)
        node, key = draw(st.sampled_from(range(len(places))).map(places.__getitem__))
        action = draw(st.sampled_from(("change", "change", "change", "remove", "move", "rename")))
        if action == "change":
            leaf = odd_leaf is not None and not _is_plain(node[key]) and draw(st.booleans())
            node[key] = draw(odd_leaf(node[key]) if leaf and odd_leaf else odd)
        elif action == "remove":
            del node[key]
        elif action == "move":  # a valid value in the wrong place
            other, there = places[draw(st.integers(0, len(places) - 1))]
            node[key] = _copied(other[there])
        elif isinstance(node, dict):
            renamed = draw(st.sampled_from(("", "x" * 300, "../a", "a.b", "<b>", "\x1b[1m", "\n")))
            node[renamed] = node.pop(key)
        else:
            node.insert(key, _copied(node[key]))
    return tree


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, list, dict))


def _copied(value: Any) -> Any:
    """Dicts and lists copied (tuples become lists), all else shared."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copied(one) for one in value]
    return value


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value below a container."""
    found: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (dict, list)):
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    return found
