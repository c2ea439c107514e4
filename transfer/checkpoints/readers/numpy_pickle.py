"""Reads numpy's arrays, scalars and dtypes from a pickle, without numpy's own functions.

A pickle rebuilds an array by numpy's functions and then sets states, which numpy hardly checks: a
wrong one ends the process. Here the pickle gets stand-ins that check each part, and no object of
numpy gets a state; `settled` puts the arrays in their places. A file chooses among fixed
dtypes: booleans, numbers, text, bytes, dates. An array of Python objects or of records is refused.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from typing import Any

import numpy as np

from transfer.checkpoints.readers.reading_budget import spend
from transfer.checkpoints.readers.refused_content import NotPlain

# The dtypes that a file may ask for: a byte order, then one of numpy's names, with the length of
# texts.
_NUMBERS = "b1|i1|i2|i4|i8|u1|u2|u4|u8|f2|f4|f8|f12|f16|c8|c16|c24|c32"
_SPELLED = re.compile(rf"([<>=|]?)({_NUMBERS}|M8|m8|[SU][0-9]{{1,6}})")
_UNITS = ("generic", "Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
ORDERS = ("<", ">", "=", "|")
DIMENSIONS = 32
LONGEST = 1 << 48  # bytes, in one dimension
DEPTH = 100  # depth of nested containers
# Byte order, subdtype, names, fields, item size, alignment, flags: what follows the order.
PLAIN_STATE = (None, None, None, -1, -1, 0)


class Dtype:
    """Replaces `numpy.dtype` while a pickle is read."""

    __slots__ = ("spelled", "order", "unit")

    def __init__(self, spelled: Any = None, align: Any = False, copy: Any = False) -> None:
        match = _SPELLED.fullmatch(spelled) if type(spelled) is str else None
        if not match or type(align) not in (bool, int) or type(copy) not in (bool, int):
            raise NotPlain(f"a numpy array of dtype {_named(spelled)}")
        self.spelled, self.order, self.unit = match[2], match[1] or "=", ""

    def __setstate__(self, state: Any) -> None:
        """Takes (3, byte order, *PLAIN_STATE); texts state their sizes, dates their unit.

        Raises:
            NotPlain: any other state.
        """
        plain = type(state) is tuple and len(state) in (8, 9)
        if not plain or any(type(part) not in (int, str, type(None)) for part in state[:8]):
            raise NotPlain("a numpy dtype with a state that is not a plain dtype's")
        kind = self.spelled[0]
        version = 4 if kind in "mM" else 3
        wanted = {"S": (None, None, None, self._length(), 1, 0)}.get(kind, PLAIN_STATE)
        if kind == "U":
            wanted = (None, None, None, 4 * self._length(), 4, 8)
        if (state[0], state[2:8]) != (version, wanted) or state[1] not in ORDERS:
            raise NotPlain("a numpy dtype with a state that is not a plain dtype's")
        if len(state) != (9 if version == 4 else 8):
            raise NotPlain("a numpy dtype with a state that is not a plain dtype's")
        self.order, self.unit = state[1], _unit(state[8]) if version == 4 else ""

    def _length(self) -> int:
        return int(self.spelled[1:])

    def made(self) -> np.dtype:
        """Returns numpy's own dtype. Raises NotPlain if numpy has no such dtype."""
        try:
            return np.dtype(f"{self.order}{self.spelled}{self.unit}")
        except TypeError as error:  # long doubles differ between machines
            raise NotPlain(f"a numpy dtype {self.spelled!r}") from error


class Array:
    """Replaces `numpy.ndarray` while a pickle is read; `value` is the array, None until then."""

    value: np.ndarray | None = None

    def __new__(cls, shape: Any = (), dtype: Any = None, data: Any = None) -> Any:
        """`numpy.ndarray` of given bytes, as this project's own `.pkl` have it (`writers`).

        Raises:
            NotPlain: without bytes, its content would be old memory.
        """
        if data is None:
            raise NotPlain("a numpy array that is never filled")
        return frombuffer(data, Dtype(dtype), shape)

    def __setstate__(self, state: Any) -> None:
        """([version,] shape, dtype, whether in Fortran's order, bytes)."""
        if type(state) is not tuple or len(state) not in (4, 5):
            raise NotPlain("a numpy array whose state is damaged")
        shape, dtype, fortran, data = state[-4:]
        if type(fortran) not in (bool, int):
            raise NotPlain("a numpy array whose state is damaged")
        self.value = frombuffer(data, dtype, shape, "F" if fortran else "C")


def reconstruct(subtype: Any, shape: Any, typecode: Any) -> Array:
    """Replaces `numpy._core.multiarray._reconstruct`: returns an array that gets its state next.

    Raises NotPlain for a different class.
    """
    if subtype is not Array:
        raise NotPlain(f"a numpy array of class {_named(subtype)}")
    return object.__new__(Array)


def scalar(dtype: Any, data: Any = b"") -> Any:
    """Replaces `numpy._core.multiarray.scalar`: returns the scalar of a dtype and its bytes."""
    empty = type(data) in (bytes, str) and not data
    if empty and type(dtype) is Dtype and not dtype.made().itemsize:
        return dtype.made().type()  # numpy does not make an array from the bytes of an empty text
    return frombuffer(data, dtype, (1,), "C")[0]


def frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C", axes: Any = None) -> np.ndarray:
    """Replaces `numpy._core.numeric._frombuffer`: returns an array of its own memory.

    Args:
        order: "C", "F", or "K": in C's order, and then transposed by `axes`.

    Raises:
        NotPlain: parts of the wrong kind, or bytes that the shape does not fill.
    """
    if type(data) is str and type(dtype) is Dtype:  # Python 2's bytes, read as latin1
        spend(len(data))
        data = data.encode("latin1")
    right = type(dtype) is Dtype and type(data) in (bytes, bytearray) and type(order) is str
    if not right or not _is_shape(shape) or not _is_order(order, axes, len(shape)):
        raise NotPlain("a numpy array whose parts are damaged")
    made = dtype.made()
    if math.prod(shape) * made.itemsize != len(data):
        raise NotPlain(f"a numpy array that declares {shape} and has {len(data)} bytes")
    if type(data) is bytes:  # torch wants an array that can be written to
        spend(len(data))
        data = bytearray(data)
    flat = np.frombuffer(data, made) if made.itemsize and data else np.empty(0, made)
    array = flat.reshape(shape, order="F" if order == "F" else "C")
    return array if axes is None else array.transpose(axes)


def _is_shape(shape: Any) -> bool:
    if type(shape) is not tuple or len(shape) > DIMENSIONS:
        return False
    return all(type(n) is int and 0 <= n < LONGEST for n in shape)


def _is_order(order: str, axes: Any, dimensions: int) -> bool:
    if order != "K":
        return order in ("C", "F") and axes is None
    if type(axes) is not tuple or any(type(axis) is not int for axis in axes):
        return False
    return sorted(axes) == list(range(dimensions))


def _unit(stated: Any) -> str:
    """Returns numpy's name for the unit of dates, (None or an empty dict, (name, count, 1, 1))."""
    inner = stated[1] if type(stated) is tuple and len(stated) == 2 and not stated[0] else None
    if type(inner) is not tuple or len(inner) != 4 or type(inner[1]) is not int:
        raise NotPlain("a numpy dtype of dates without a unit")
    name = inner[0].decode("latin1") if type(inner[0]) is bytes else inner[0]
    if type(name) is not str or name not in _UNITS or not 0 < inner[1] < 1 << 31:
        raise NotPlain("a numpy dtype of dates without a unit")
    count = "" if inner[1] == 1 else str(inner[1])
    return "" if name == "generic" else f"[{count}{name}]"


def _named(value: Any) -> str:
    """Returns a short name of any object in a pickle; its content may be huge and is not shown."""
    if type(value) is str:
        return ascii(value[:20])
    return value.__name__ if isinstance(value, type) else f"({type(value).__name__})"


def settled(value: Any) -> Any:
    """Returns the object with arrays and dtypes in place of the stand-ins. Lists and mappings are
    changed in place, each of them once, even if it occurs several times.

    Raises:
        NotPlain: containers that are nested too deeply.
    """
    return _settled(value, 0, {})


def _settled(value: Any, depth: int, done: dict[int, tuple[Any, Any]]) -> Any:
    """`done` has, by id, the object, which keeps its id from being used again, and its result."""
    if isinstance(value, Array):
        return value.value
    if isinstance(value, Dtype):
        return value.made()
    kind = type(value)
    if kind is not tuple and not isinstance(value, (dict, list, Namespace)):
        return value
    if id(value) in done:
        return done[id(value)][1]
    if depth > DEPTH:
        raise NotPlain(f"containers in containers, more than {DEPTH} deep")
    if kind is tuple:
        new = tuple(_settled(one, depth + 1, done) for one in value)
        # The old tuple, if nothing in it is new: the objects of a file keep what they share.
        same = all(one is old for one, old in zip(new, value))
        done[id(value)] = value, value if same else new
        return done[id(value)][1]
    done[id(value)] = value, value
    inner = vars(value) if isinstance(value, Namespace) else value
    for key, one in list(enumerate(inner) if isinstance(inner, list) else inner.items()):
        new = _settled(one, depth + 1, done)
        if new is not one:
            inner[key] = new
    return value


# By global of a pickle: its stand-in. numpy 2 renamed `numpy.core`; both names are in use.
STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): Dtype,
    **{
        (f"numpy.{core}.{module}", name): value
        for core in ("core", "_core")
        for module, name, value in (
            ("multiarray", "_reconstruct", reconstruct),
            ("multiarray", "scalar", scalar),
            ("numeric", "_frombuffer", frombuffer),
        )
    },
}
