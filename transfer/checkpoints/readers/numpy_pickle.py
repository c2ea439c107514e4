"""numpy's arrays, scalars and dtypes out of a pickle, without numpy's own rebuilding.

A pickle rebuilds an array by numpy's functions and then sets states, which numpy checks little: a
wrong one ends the process. Here the pickle gets stand-ins that check each part; `settled` puts the
arrays in their places. Plain dtypes only: booleans, numbers, text, bytes, dates; an array of Python
objects or of records is refused.
"""

from __future__ import annotations

import math
import pickle
import re
from argparse import Namespace
from typing import Any

import numpy as np

_SPELLED = re.compile(r"([<>=|]?)([?]|[biufcSUMm]\d+)")
DEPTH = 100  # of nested containers


class NotPlain(pickle.UnpicklingError):
    """An array of other things than numbers, text and dates; the message says of what."""


class Dtype:
    """Replaces `numpy.dtype` while a pickle is read."""

    def __init__(self, spelled: Any = None, align: Any = False, copy: Any = False) -> None:
        match = _SPELLED.fullmatch(spelled) if isinstance(spelled, str) else None
        if not match:
            raise NotPlain(f"a numpy array of dtype {str(spelled)[:20]!r}")
        self.spelled, self.order, self.unit = match[2], match[1] or "=", ""

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, subdtype, names, fields, itemsize, alignment, flags[, unit])."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "=", "|"):
            raise NotPlain("a numpy dtype whose state is damaged")
        if any(part is not None for part in state[2:5]):
            raise NotPlain("a numpy array of records")
        self.order = state[1]
        if self.spelled[0] in "mM" and len(state) > 8:
            found = re.search(r"b?'([a-zA-Z]+)'", str(state[8])[:80])
            self.unit = f"[{found[1]}]" if found else ""

    def made(self) -> np.dtype:
        """numpy's own dtype."""
        try:
            return np.dtype(f"{self.order}{self.spelled}{self.unit}")
        except TypeError as error:
            raise NotPlain(f"a numpy dtype {self.spelled!r}") from error


class Array:
    """Replaces `numpy.ndarray` while a pickle is read; `value` is the array, None until then."""

    value: np.ndarray | None = None

    def __new__(cls, shape: Any = (), dtype: Any = None, data: Any = None) -> Any:
        """`numpy.ndarray` of given bytes, as this project's own `.pkl` have it (`writers`).

        Raises:
            NotPlain: without bytes, its memory would be whatever was there before.
        """
        if data is None:
            raise NotPlain("a numpy array that is never filled")
        return frombuffer(data, Dtype(dtype), shape)

    def __setstate__(self, state: Any) -> None:
        """([version,] shape, dtype, whether in Fortran's order, bytes)."""
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise NotPlain("a numpy array whose state is damaged")
        shape, dtype, fortran, data = state[-4:]
        self.value = frombuffer(data, dtype, shape, "F" if fortran else "C")


def reconstruct(subtype: Any, shape: Any, typecode: Any) -> Array:
    """`numpy._core.multiarray._reconstruct`: an array that gets its state next."""
    if subtype is not Array:
        raise NotPlain(f"a numpy array of class {getattr(subtype, '__name__', subtype)}")
    return object.__new__(Array)


def scalar(dtype: Any, data: Any = b"") -> Any:
    """`numpy._core.multiarray.scalar`."""
    return frombuffer(data, dtype, (1,), "C")[0]


def frombuffer(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> np.ndarray:
    """`numpy._core.numeric._frombuffer`: an array of its own memory.

    Raises:
        NotPlain: parts of the wrong kind, or bytes that the shape does not fill.
    """
    if isinstance(data, str):  # Python 2's bytes, read as latin1
        data = data.encode("latin1")
    whole = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not whole or not isinstance(dtype, Dtype) or not isinstance(data, (bytes, bytearray)):
        raise NotPlain("a numpy array whose parts are damaged")
    made = dtype.made()
    if math.prod(shape) * made.itemsize != len(data) or len(shape) > 32:
        raise NotPlain(f"a numpy array that declares {shape} and has {len(data)} bytes")
    own = data if isinstance(data, bytearray) else bytearray(data)  # writable, as torch wants it
    flat = np.frombuffer(own, made) if made.itemsize and data else np.empty(0, made)
    return flat.reshape(shape, order="F" if order == "F" else "C")


def no_bytes(value: Any = b"") -> bytes:
    """`bytes` as old pickles of empty ones call it; a number would be a length in memory."""
    if isinstance(value, int):
        raise NotPlain("a call of bytes with a length")
    return bytes(value)


def settled(value: Any, depth: int = 0, seen: set[int] | None = None) -> Any:
    """The object with arrays and dtypes where the stand-ins are; containers are changed in place.

    Raises:
        NotPlain: containers that are nested too deeply.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Array):
        return value.value
    if isinstance(value, Dtype):
        return value.made()
    if depth > DEPTH:
        raise NotPlain(f"containers in containers, more than {DEPTH} deep")
    if type(value) is tuple:
        return tuple(settled(one, depth + 1, seen) for one in value)
    if id(value) in seen or not isinstance(value, (dict, list, Namespace)):
        return value
    seen.add(id(value))
    inner = vars(value) if isinstance(value, Namespace) else value
    for key, one in list(enumerate(inner) if isinstance(inner, list) else inner.items()):
        new = settled(one, depth + 1, seen)
        if new is not one:
            inner[key] = new
    return value


# Global of a pickle -> its stand-in. numpy 2 renamed `numpy.core`; both names are about.
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
