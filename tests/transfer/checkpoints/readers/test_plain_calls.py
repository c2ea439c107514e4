"""Calls and steps of plain pickles: each gives what Python's own unpickler gives, or is refused."""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

from tests.transfer.checkpoints.readers.hostile_pickles import (
    Code,
    built,
    called,
    named,
    program,
    value,
)
from transfer.checkpoints.readers.refused_content import ForbiddenGlobal, NotPlain
from transfer.checkpoints.readers.unpickle import restricted_load

PAIR, TRIPLE = Code(b"K\x01K\x02\x86"), Code(b"K\x01K\x02K\x03\x87")
PLAIN: list[tuple[str, str, tuple[Any, ...]]] = [
    *(("builtins", kind, ()) for kind in ("bool", "int", "float", "str", "bytes", "bytearray")),
    *(("builtins", kind, ()) for kind in ("list", "tuple", "set", "frozenset", "dict")),
    ("builtins", "bool", (2,)),
    ("builtins", "int", ("12",)),
    ("builtins", "int", (7.9,)),
    ("builtins", "int", ("1" * 100,)),
    ("builtins", "float", ("nan",)),
    ("builtins", "float", (True,)),
    ("builtins", "str", (2.5,)),
    ("builtins", "bytes", (b"ab",)),
    ("builtins", "bytearray", (b"ab",)),
    ("builtins", "bytearray", ("a\xff", "latin1")),
    ("builtins", "bytearray", ("a\xff", "latin-1")),
    ("builtins", "list", (([1], {}),)),
    ("builtins", "list", ({"a": 1, "b": 2},)),
    ("builtins", "tuple", ([[1], {}],)),
    ("builtins", "set", ([1, "a", None],)),
    ("builtins", "frozenset", ((1, (2, (3, 4))),)),
    ("builtins", "dict", ({"b": 1, "a": [2]},)),
    ("builtins", "dict", (((1, [2]), [3, 4]),)),
    ("collections", "OrderedDict", ()),
    ("collections", "OrderedDict", ([("b", 1), ("a", {})],)),
    ("_codecs", "encode", ("a\xff", "latin1")),
    ("_codecs", "encode", ("a\xff", "latin-1")),
    ("pathlib", "PurePosixPath", ("/a", "b")),
    ("pathlib", "PureWindowsPath", ("C:/a", "b")),
    ("argparse", "Namespace", ()),
]


def loaded(content: bytes) -> Any:
    return restricted_load(io.BytesIO(content))


def same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.mark.parametrize("module, name, arguments", PLAIN)
def test_a_call_gives_what_pythons_gives(
    module: str, name: str, arguments: tuple[Any, ...]
) -> None:
    pushed = b"".join(map(value, arguments))
    spelled = [
        program(called(named(module, name), *arguments)),
        program(b"(", named(module, name), pushed, b"o"),
        program(b"(", pushed, f"i{module}\n{name}\n".encode()),
    ]
    for content in spelled:
        assert same(loaded(content), pickle.loads(content))


@pytest.mark.parametrize(
    "module, name, given",
    [
        ("argparse", "Namespace", {"lr": 0.1, "names": ["a"]}),
        ("collections", "OrderedDict", {"b": 1, "a": [2]}),
        ("builtins", "dict", {"b": 1, "a": [2]}),
    ],
)
def test_named_arguments(module: str, name: str, given: dict[str, Any]) -> None:
    found = loaded(program(named(module, name), value(()), value(given), b"\x92"))
    kinds = {"Namespace": Namespace, "OrderedDict": OrderedDict, "dict": dict}
    assert same(found, kinds[name](**given))


STEPS = {
    "list, one item": b"]K\x01a",
    "list, items": b"](K\x01]e",
    "dict, one item": b"}K\x01]s",
    "dict, items": b"}(K\x01]\x8c\x01a}u",
    "dict of a mark": b"(K\x01]\x8c\x01a}d",
    "list of a mark": b"(K\x01]l",
    "set, members": b"\x8f(K\x01\x8c\x01aK\x01\x90",
    "frozenset": b"(K\x01\x8c\x01a\x91",
    "bytearray": b"\x96" + (3).to_bytes(8, "little") + b"abc",
    "attributes of a namespace": built(called(named("argparse", "Namespace")), {"x": [1]}),
    "line of text": b"Vab\\u00e9c\n",
    "numbers of protocol 0": b"(I01\nI-7\nL123L\nF2.5\nt",
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_does_what_pythons_does(name: str) -> None:
    content = program(STEPS[name], protocol=5)
    assert same(loaded(content), pickle.loads(content))


def test_attributes_of_a_mapping_are_kept() -> None:
    given = OrderedDict(a=1)
    given._metadata = {"version": 1}  # as a torch state has it
    found = loaded(pickle.dumps(given))
    assert same(found, given) and found._metadata == {"version": 1}


def of(module: str, name: str, *arguments: Any) -> bytes:
    return called(named(module, name), *arguments)


REFUSED = {
    "bytes of a number": of("builtins", "bytes", 3),
    "a bytearray of a number": of("builtins", "bytearray", 3),
    "a bytearray in another encoding": of("builtins", "bytearray", "a", "utf-16"),
    "a number of a list": of("builtins", "int", [1]),
    "a number of a long text": of("builtins", "int", "1" * 101),
    "a text of a list": of("builtins", "str", [1]),
    "a list of a text": of("builtins", "list", "ab"),
    "a set of lists": of("builtins", "set", [[1]]),
    "a frozenset of lists": of("builtins", "frozenset", [[1]]),
    "a dict of triples": of("builtins", "dict", [TRIPLE]),
    "a dict of texts": of("builtins", "dict", ["ab"]),
    "a dict with a key that is a list": of("builtins", "dict", [([1], 2)]),
    "a path of a number": of("pathlib", "PurePosixPath", 1),
    "a set member that is a list": b"\x8f(]\x90",
    "a frozenset of a list": b"(]\x91",
    "a key that is a list": b"}]K\x01s",
    "a key of many parts": b"}" + value(tuple(range(65))) + b"K\x01s",
    "a key that is nested deeply": b"}K\x01" + b"\x85" * 4 + b"K\x01s",
    "a key of a huge number": b"}" + value(1 << 64) + b"K\x01s",
    "a key of a huge negative number": b"}" + value(-1 << 64) + b"K\x01s",
    "an item of a list": b"]K\x01K\x02s",
    "an odd number of items": b"}(K\x01K\x02K\x03u",
    "an odd number of items of a mark": b"(K\x01K\x02K\x03d",
    "items for a set": b"\x8f(K\x01K\x02u",
    "an item for a tuple": b")K\x01a",
    "items for a dict": b"}(K\x01e",
    "members for a list": b"](K\x01\x90",
    "arguments that are a list": named("builtins", "dict") + b"]R",
    "named arguments that are a list": named("builtins", "dict") + b")]\x92",
    "a state of a dict": built(Code(b"}"), {"a": 1}),
    "a state of a list": built(Code(b"]"), {"a": 1}),
    "a state that is not a dict": built(called(named("argparse", "Namespace")), [1]),
    "attributes with numbers as names": built(called(named("argparse", "Namespace")), {1: 1}),
    "fields that are not texts": of("dill._dill", "_create_namedtuple", "T", (1,), "m"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_file_of_weights_has_is_refused(name: str) -> None:
    with pytest.raises(NotPlain):
        loaded(program(REFUSED[name]))


@pytest.mark.parametrize(
    "key",
    [*(2**64 - 1, 1 - 2**64, True, None, 2.5, b"x", "x"), tuple(range(64)), (1, (2, (3,)))],
)
def test_keys_of_real_files_are_taken(key: Any) -> None:
    assert same(loaded(pickle.dumps({key: 1})), {key: 1})


def test_a_number_of_numpys_is_a_key() -> None:
    assert loaded(pickle.dumps({np.int64(3): "c", "a": {np.float32(2.5)}})) == {
        3: "c",
        "a": {2.5},
    }


@pytest.mark.parametrize(
    "content, text",
    [
        (b"K\x01Q", "persistent object 'int'"),
        (value("x" * 200) + b"Q", "persistent object 'x{100}'"),
        (b"K\x01)R", "a call of int"),
        (named("builtins", "set") + b")R)R", "a call of set"),
        (of("_codecs", "encode", "a", "idna"), "'idna'"),
        (of("_codecs", "encode", "a", 3), "'int'"),
        (of("_codecs", "encode", b"a", "latin1"), "'latin1'"),
        (of("dill._dill", "_import_module", 7), "module int"),
        (of("dill._dill", "_get_attr", "os", "system"), "attribute system"),
        (of("dill._dill", "_create_array", named("builtins", "list"), (), ()), "an array from"),
        (f"c{'m' * 150}\n{'n' * 150}\n".encode(), "^[^m]*m{100}.n{100}[^n]*$"),
    ],
)
def test_what_is_not_in_the_table_is_refused_by_a_short_name(content: bytes, text: str) -> None:
    with pytest.raises(ForbiddenGlobal, match=text):
        loaded(program(content))


NUMPYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core._multiarray_umath")
START = (named("numpy", "ndarray"), (0,), b"b")
STATE = (1, (2,), Code(called(named("numpy", "dtype"), "<f4")), False, np.float32([1, 2]).tobytes())


@pytest.mark.parametrize("module", NUMPYS)
def test_dills_and_jaxs_recipes_of_an_array(module: str) -> None:
    dills = of(
        "dill._dill", "_get_attr", of("dill._dill", "_import_module", module), "_reconstruct"
    )
    jaxs = of("jax._src.array", "_reconstruct_array", Code(dills), START, STATE, {"weak": False})
    found = [
        of("dill._dill", "_create_array", Code(dills), START, STATE, more) for more in (None, {})
    ]
    for content in (jaxs, *found, built(Code(called(dills, *START)), STATE)):
        array = loaded(program(content))
        assert array.dtype == np.dtype("<f4") and array.tolist() == [1.0, 2.0]


def test_dills_codec_and_named_tuples() -> None:
    codec = of("dill._dill", "_get_attr", of("dill._dill", "_import_module", "_codecs"), "encode")
    assert loaded(program(called(codec, "a\xff", "latin1"))) == b"a\xff"
    for fields in ("mean var", ("mean", "var")):
        kind = of("dill._dill", "_create_namedtuple", "T", fields, "module")
        assert loaded(program(called(kind, 1, [2]))) == {"mean": 1, "var": [2]}
    kind = of("haiku._src.data_structures", "FlatMapping", {"w": [1]})
    assert same(loaded(program(kind)), {"w": [1]})


COPIES = {
    "bytes": (named("builtins", "bytes"), b"a" * 1000),
    "bytearray": (named("builtins", "bytearray"), b"a" * 1000),
    "bytearray of text": (named("builtins", "bytearray"), "a" * 1000),
    "encode": (named("_codecs", "encode"), "a" * 1000),
    "path": (named("pathlib", "PurePosixPath"), "a" * 1000),
    "list": (named("builtins", "list"), [1] * 100),
    "set": (named("builtins", "set"), list(range(100))),
    "dict": (named("builtins", "dict"), [("a", 1)] * 100),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("times, refused", [(500, False), (2500, True)])
def test_copies_that_a_file_asks_for_are_counted(name: str, times: int, refused: bool) -> None:
    """A thousand bytes, or items that count as a thousand, are copied 500 or 2,500 times."""
    function, content = COPIES[name]
    pushed = function + b"q\x00" + b"0" + value(content) + b"q\x01" + b"0"
    data = program(pushed, b"h\x00h\x01\x85R0" * times, b"N")
    if not refused:
        assert loaded(data) is None
        return
    with pytest.raises(NotPlain, match="expands"):
        loaded(data)
