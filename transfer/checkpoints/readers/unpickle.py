"""An unpickler for files from strangers: numpy arrays and builtin containers, nothing else.

A pickle names the functions that rebuild its objects, so that loading one runs code of its
author's choice. Here each name is looked up in a fixed table; nothing is imported for a file.

BYOL's files are written by dill and name haiku's, dill's and jax's classes: for these the table
has inert stand-ins of our own (deepmind-research byol/utils/checkpointing.py; dill 0.3.1 to 0.3.8).
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from transfer.checkpoints.readers.numpy_pickle import STAND_INS, no_bytes, reconstruct, settled


class ForbiddenGlobal(pickle.UnpicklingError):
    """A pickle asked for something outside the table; the message is its name."""


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as old pickles of bytes use it; other codecs are of no use here."""
    if encoding != "latin1":
        raise ForbiddenGlobal(f"_codecs.encode to {encoding!r}")
    return text.encode("latin1")


def _bytearray(value: Any = b"", *_: Any) -> bytearray:
    """`bytearray` as pickles call it, of bytes."""
    return bytearray(no_bytes(value) if not isinstance(value, str) else value.encode("latin1"))


class _Module:
    """What stands for a module that dill asks for: a name, nothing imported."""

    def __init__(self, name: str) -> None:
        self.name = name


def _import_module(name: str, safe: bool = False) -> _Module:
    if not any(name == known for known, _ in _DILL_ATTRIBUTES):
        raise ForbiddenGlobal(f"module {name}")
    return _Module(name)


def _get_attr(module: Any, name: str) -> Any:
    key = (getattr(module, "name", None), name)
    if not isinstance(module, _Module) or key not in _DILL_ATTRIBUTES:
        raise ForbiddenGlobal(f"attribute {name}")
    return _DILL_ATTRIBUTES[key]


def _create_namedtuple(name: str, fields: Sequence[str], module: str, defaults: Any = None) -> type:
    """dill's recipe for a class of named tuples: here one whose objects are plain dicts."""
    names = tuple(fields.split() if isinstance(fields, str) else fields)
    return type("NamedTuple", (), {"__new__": lambda cls, *values: dict(zip(names, values))})


def _create_array(function: Any, arguments: tuple, state: tuple, npdict: Any = None) -> Any:
    """dill's recipe for an array."""
    if function is not reconstruct:
        raise ForbiddenGlobal(f"an array from {function!r}")
    array = reconstruct(*arguments)
    array.__setstate__(state)
    return array


def _jax_array(function: Any, arguments: tuple, state: tuple, aval: Any) -> Any:
    """jax's recipe for an array (jax._src.array._reconstruct_array): numpy's."""
    return _create_array(function, arguments, state)


_BUILTINS = (bool, int, float, str, list, tuple, dict, set, frozenset)
# Paths of any system: only names, which touch no file.
PATHS: dict[tuple[str, str], Any] = {
    (module, name): kind
    for module in ("pathlib", "pathlib._local")
    for names, kind in (
        (("PosixPath", "PurePosixPath"), PurePosixPath),
        (("WindowsPath", "PureWindowsPath"), PureWindowsPath),
    )
    for name in names
}
ALLOWED: dict[tuple[str, str], Any] = {
    **{
        (module, kind.__name__): kind
        for kind in _BUILTINS
        for module in ("builtins", "__builtin__")
    },
    # Called with a number both would take that much memory.
    **{(module, "bytes"): no_bytes for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): _bytearray for module in ("builtins", "__builtin__")},
    **STAND_INS,
    **PATHS,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("argparse", "Namespace"): Namespace,
    ("dill._dill", "_create_namedtuple"): _create_namedtuple,
    ("dill._dill", "_import_module"): _import_module,
    ("dill._dill", "_get_attr"): _get_attr,
    ("dill._dill", "_create_array"): _create_array,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    **{
        ("haiku._src.data_structures", name): dict
        for name in ("FlatMapping", "FlatMap", "frozendict")
    },
}
# What old dill reaches by module and attribute instead of a global.
_DILL_ATTRIBUTES = {
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.{module}", "_reconstruct"): reconstruct
        for core in ("core", "_core")
        for module in ("multiarray", "_multiarray_umath")
    },
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
        NotPlain: an array of other things than numbers, text and dates.
        Exception: of nearly any kind, for a damaged file.
    """
    return settled(RestrictedUnpickler(stream, encoding=encoding).load())
