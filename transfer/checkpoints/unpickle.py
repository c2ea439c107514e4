"""An unpickler for files from strangers: numpy arrays and builtin containers, nothing else.

A pickle names the functions that rebuild its objects, so that loading one runs code of its
author's choice. Here each name is looked up in a fixed table; nothing is imported for a file.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

try:
    from numpy._core.multiarray import _reconstruct, scalar
    from numpy._core.numeric import _frombuffer
except ImportError:  # numpy < 2
    from numpy.core.multiarray import _reconstruct, scalar
    from numpy.core.numeric import _frombuffer


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asked for something outside the table; the message is its name."""


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as old pickles of bytes use it; other codecs are of no use here."""
    if encoding != "latin1":
        raise ForbiddenGlobal(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


_BUILTINS = (bytearray, bytes, bool, int, float, str, list, tuple, dict, set, frozenset)
# numpy 2 renamed `numpy.core`; files under both names are about.
NUMPY_REBUILDERS = {
    (f"numpy.{core}.{module}", name): value
    for core in ("core", "_core")
    for module, name, value in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("multiarray", "scalar", scalar),
        ("numeric", "_frombuffer", _frombuffer),
    )
}
ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (module, kind.__name__): kind
        for kind in _BUILTINS
        for module in ("builtins", "__builtin__")
    },
    **NUMPY_REBUILDERS,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Knows the globals of `ALLOWED` only."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns the table's entry.

        Raises:
            ForbiddenGlobal: any other global, before it is imported.
        """
        if (module, name) not in ALLOWED:
            raise ForbiddenGlobal(f"{module}.{name}")
        return ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> Any:
        """Refuses references to objects outside the file."""
        raise ForbiddenGlobal(f"persistent object {reference!r}")


def restricted_load(stream: BinaryIO, encoding: str = "latin1") -> Any:
    """Loads one pickle.

    Args:
        encoding: of Python 2's strings; "latin1" also carries its arrays.

    Raises:
        ForbiddenGlobal: a global outside the table.
        Exception: of nearly any kind, for a damaged file.
    """
    return RestrictedUnpickler(stream, encoding=encoding).load()
