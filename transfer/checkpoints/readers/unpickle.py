"""An unpickler for files from strangers: numpy arrays and builtin containers, nothing else.

A pickle is a program: it names functions, calls them, and sets states of objects. Here each name is
looked up in a fixed table of functions of our own, and nothing is imported for a file. Each step of
the program that calls or changes an object is a method below, which knows the few objects that a
pickle of weights calls or changes; every other step is Python's, and makes plain values.

BYOL's files are written by dill and name haiku's, dill's and jax's classes: for these the table
has inert stand-ins of our own (deepmind-research byol/utils/checkpointing.py; dill 0.3.1 to 0.3.8).
"""

from __future__ import annotations

import os
import pickle
import struct
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

from transfer.checkpoints.readers.numpy_pickle import STAND_INS, Array, Dtype, reconstruct, settled
from transfer.checkpoints.readers.plain_calls import (
    CALLS,
    PATHS,
    checked_key,
    encoded,
    made_dict,
)
from transfer.checkpoints.readers.reading_budget import PER_ITEM, budget_for, spend
from transfer.checkpoints.readers.refused_content import ForbiddenGlobal, NotPlain

LONGEST_NAME = 100  # number of characters of a module's name, or of a name in it


class _Module:
    """Replaces a module that dill asks for: only its name, nothing is imported."""

    def __init__(self, name: str) -> None:
        self.name = name


def _import_module(name: Any, safe: Any = False) -> _Module:
    if not any(name == known for known, _ in _DILL_ATTRIBUTES):
        raise ForbiddenGlobal(f"module {_name_of(name)}")
    return _Module(name)


def _get_attr(module: Any, name: Any) -> Any:
    key = (module.name, name) if type(module) is _Module and type(name) is str else None
    if key not in _DILL_ATTRIBUTES:
        raise ForbiddenGlobal(f"attribute {_name_of(name)}")
    return _DILL_ATTRIBUTES[key]


class _NamedTuple:
    """dill's recipe for a class of named tuples: here a class whose objects are plain dicts."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __call__(self, *values: Any) -> dict[str, Any]:
        return dict(zip(self._names, values))


def _create_namedtuple(name: Any, fields: Any, module: Any, defaults: Any = None) -> _NamedTuple:
    names = tuple(fields.split() if type(fields) is str else fields)
    if any(type(one) is not str for one in names):
        raise NotPlain("named tuples whose names are not texts")
    return _NamedTuple(names)


def _create_array(function: Any, arguments: Any, state: Any, npdict: Any = None) -> Any:
    """dill's recipe for an array."""
    if function is not reconstruct or type(arguments) is not tuple:
        raise ForbiddenGlobal(f"an array from {_name_of(function)}")
    array = reconstruct(*arguments)
    array.__setstate__(state)
    return array


def _jax_array(function: Any, arguments: Any, state: Any, aval: Any) -> Any:
    """jax's recipe for an array (jax._src.array._reconstruct_array): numpy's."""
    return _create_array(function, arguments, state)


def _name_of(value: Any) -> str:
    """Returns a short text for a message about an object in the file."""
    if type(value) is str:
        return value[:LONGEST_NAME]
    return getattr(value, "__name__", type(value).__name__)


ALLOWED: dict[tuple[str, str], Any] = {
    **CALLS,
    **STAND_INS,
    **PATHS,
    ("dill._dill", "_create_namedtuple"): _create_namedtuple,
    ("dill._dill", "_import_module"): _import_module,
    ("dill._dill", "_get_attr"): _get_attr,
    ("dill._dill", "_create_array"): _create_array,
    ("jax._src.array", "_reconstruct_array"): _jax_array,
    **{
        ("haiku._src.data_structures", name): made_dict
        for name in ("FlatMapping", "FlatMap", "frozendict")
    },
}
# Names that old dill reaches by module and attribute instead of as a global.
_DILL_ATTRIBUTES = {
    ("_codecs", "encode"): encoded,
    **{
        (f"numpy.{core}.{module}", "_reconstruct"): reconstruct
        for core in ("core", "_core")
        for module in ("multiarray", "_multiarray_umath")
    },
}
_CALLABLE = {id(value) for value in (*ALLOWED.values(), *_DILL_ATTRIBUTES.values())}


# Steps that take an object from outside of the file.
_ELSEWHERE = tuple(
    code[0]
    for code in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
)


class RestrictedUnpickler(pickle._Unpickler):
    """Knows the globals of `ALLOWED` only, calls only them, and gives states to few of its objects.

    Its base is the unpickler in Python: the steps of the one in C cannot be replaced.
    """

    # Attributes of the base class, which has them while it loads.
    stack: list[Any]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]
    pop_mark: Callable[[], list[Any]]

    def find_class(self, module: str, name: str) -> Any:
        """Returns the table's entry.

        Raises:
            ForbiddenGlobal: any other global, before it is imported.
        """
        if (module, name) not in ALLOWED:
            raise ForbiddenGlobal(f"{module[:LONGEST_NAME]}.{name[:LONGEST_NAME]}")
        return ALLOWED[module, name]

    def persistent_load(self, reference: Any) -> Any:
        """Refuses references to objects outside the file."""
        raise ForbiddenGlobal(f"persistent object {_name_of(reference)!r}")

    def _call(self, function: Any, arguments: Any, named: Any = None) -> Any:
        if id(function) not in _CALLABLE and type(function) is not _NamedTuple:
            raise ForbiddenGlobal(f"a call of {_name_of(function)}")
        named = {} if named is None else named
        if type(arguments) is not tuple or type(named) is not dict:
            raise NotPlain("a call without a list of arguments")
        spend(PER_ITEM * (len(arguments) + len(named)))
        return function(*arguments, **named)

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _newobj_ex(self) -> None:
        named, arguments = self.stack.pop(), self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments, named)

    def _obj(self) -> None:
        function, *arguments = self.pop_mark()
        self.append(self._call(function, tuple(arguments)))

    def _inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        function = self.find_class(module, name)
        arguments = tuple(self.pop_mark())  # from here on, `append` belongs to a different stack
        self.append(self._call(function, arguments))

    def _build(self) -> None:
        """Gives a state to an array, a dtype or parsed arguments, or attributes to a mapping."""
        state = self.stack.pop()
        instance = self.stack[-1]
        if type(instance) in (Array, Dtype):
            instance.__setstate__(state)
            return
        if type(instance) not in (Namespace, OrderedDict) or type(state) is not dict:
            raise NotPlain(f"a state of a {type(instance).__name__} that is not plain")
        if any(type(key) is not str for key in state):
            raise NotPlain("attributes whose names are not texts")
        spend(PER_ITEM * len(state))
        vars(instance).update(state)

    def _set_items(self, items: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) not in (dict, OrderedDict) or len(items) % 2:
            raise NotPlain(f"items of a {type(into).__name__}, which is not a mapping")
        for key, value in zip(items[::2], items[1::2]):
            into[checked_key(key)] = value

    def _setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlain(f"items of a {type(self.stack[-1]).__name__}, which is not a list")
        self.stack[-1].extend(items)

    def _append(self) -> None:
        item = self.stack.pop()
        self._extend([item])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise NotPlain(f"members of a {type(self.stack[-1]).__name__}, which is not a set")
        self.stack[-1].update(map(checked_key, items))

    def _frozenset(self) -> None:
        members = self.pop_mark()  # from here on, `append` belongs to a different stack
        self.append(frozenset(map(checked_key, members)))

    def _bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def _refused(self) -> None:
        raise ForbiddenGlobal("an object that is not in the file (a copyreg extension or a buffer)")

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,  # our table has functions in place of classes
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.OBJ[0]: _obj,
        pickle.INST[0]: _inst,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.DICT[0]: _dict,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _appends,
        pickle.ADDITEMS[0]: _additems,
        pickle.FROZENSET[0]: _frozenset,
        pickle.BYTEARRAY8[0]: _bytearray8,
        **dict.fromkeys(_ELSEWHERE, _refused),
    }


class _Rest:
    """A stream that never asks for more bytes than the file still has: otherwise a wrong length in
    the file takes memory before the end of the file is noticed.
    """

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream, self._left = stream, left

    def read(self, size: int) -> bytes:
        """Returns exactly `size` bytes.

        Raises:
            EOFError: the file is shorter.
        """
        if size > self._left:
            raise EOFError("Ran out of input")
        data = self._stream.read(size)
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        """Returns a line with its end; raises EOFError like `read`."""
        line = self._stream.readline(self._left)
        self._left -= len(line)
        if not line.endswith(b"\n"):
            raise EOFError("Ran out of input")
        return line


def restricted_load(stream: BinaryIO, encoding: str = "latin1") -> Any:
    """Loads one pickle.

    Args:
        stream: a stream that can seek; its rest is the file.
        encoding: encoding of Python 2's strings; "latin1" is also right for its arrays.

    Raises:
        ForbiddenGlobal: a global outside the table.
        NotPlain: content that no file of weights has, such as an array of objects.
        Exception: nearly any kind, for a damaged file.
    """
    begin = stream.tell()
    left = stream.seek(0, os.SEEK_END) - begin
    stream.seek(begin)
    with budget_for(left):
        return settled(RestrictedUnpickler(_Rest(stream, left), encoding=encoding).load())
