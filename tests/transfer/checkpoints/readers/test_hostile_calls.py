"""Every function that a pickle may call, with hostile arguments and hostile states.

Each call runs in a separate process with a gigabyte of memory and a few seconds of time. So a
crash, a hang or executed code is a failed test and does not end the tests.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.common.errors import InputError
from tests.faults.fuzzing import in_child, time_limit
from tests.faults.test_pickle_programs import check_plain
from tests.transfer.checkpoints.readers.hostile_pickles import (
    Code,
    built,
    called,
    named,
    program,
    value,
)
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.refused_content import NotPlain
from transfer.checkpoints.readers.unpickle import ALLOWED, restricted_load

NDARRAY, DTYPE = named("numpy", "ndarray"), named("numpy", "dtype")
RECONSTRUCT = named("numpy.core.multiarray", "_reconstruct")
FLOAT = built(called(DTYPE, "f4", False, True), (3, "<", None, None, None, -1, -1, 0))
EMPTY = called(RECONSTRUCT, NDARRAY, (0,), b"b")
ARRAY = built(EMPTY, (1, (2,), FLOAT, False, b"12345678"))
# A list that holds a list twice that holds ...: 2 to the 60 paths.
SHARED = Code(value([1]) + b"".join(b"2\x86" for _ in range(60)))
DEEP = Code(b"K\x01" + b"\x85" * 2000)
ARGUMENTS: list[tuple[Any, ...]] = [
    (),
    (None,),
    (0,),
    (10**12,),
    (-1,),
    (2**70,),
    ("x" * 10_000,),
    (b"\x00" * 10_000,),
    (b"\x00" * 10_000, "zlib_codec"),
    ("a", "idna"),
    (NDARRAY,),
    (NDARRAY, (0,), b"b"),
    (NDARRAY, (10**12,), b"b"),
    (DTYPE, (0,), b"b"),
    ("f4", False, True),
    ("O", False, True),
    ("V8", False, True),
    ("i4,O", False, True),
    ("(1000000,1000000)f4", False, True),
    ("U999999999", False, True),
    ([("a", "O")], False, True),
    ({"names": ["a"], "formats": ["O"]},),
    (FLOAT, b"1234"),
    (FLOAT, b"1"),
    (FLOAT, "1234"),
    (ARRAY, FLOAT, (2,), "C"),
    (b"12345678", FLOAT, (2,), "C"),
    (b"12345678", FLOAT, (2**62, 4), "C"),
    (b"", FLOAT, (0,) * 33, "C"),
    (b"", FLOAT, tuple([2**40] * 32), "C"),
    (b"12345678", FLOAT, (1, 2), "K", (0, 0)),
    (b"12345678", FLOAT, (1, 2), "K", (7, -9)),
    ((2,), "f4", b"12345678"),
    ((2,), "O", b"0" * 16),
    ((2,), "f4", b"12345678", 4, (-4,)),
    (SHARED,),
    (DEEP,),
    ([[DEEP, 1]],),
    ([[1, 2], [3, 4]],),
    ({DEEP: 1},),
    ("a", ["b"] * 1000, "c"),
    ("../../etc/passwd", "x" * 10_000),
    (RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (2,), FLOAT, False, b"12345678")),
    (RECONSTRUCT, (NDARRAY, (0,), b"b"), (1, (2,), "O", False, b"12345678")),
    (NDARRAY, ((2,), "f4"), ()),
]
STATES: list[Any] = [
    None,
    {},
    {"__class__": NDARRAY},
    {"value": ARRAY, "spelled": "O"},
    (None, {"__class__": NDARRAY, "__setstate__": RECONSTRUCT}),
    (None, {"spelled": "O", "value": "x"}),
    (3, "|", None, None, None, -1, -1, 0),
    (3, "|", None, None, None, -1, -1, 63),
    (3, "<", None, None, None, 1 << 40, 1, 0),
    (3, "|", (FLOAT, (2, 2)), None, None, 16, 4, 0),
    (3, "|", None, ("a",), {"a": (FLOAT, 0)}, 4, 1, 16),
    (4, "<", None, None, None, -1, -1, 0, ({}, (b"D", 1, 1, 1))),
    (4, "<", None, None, None, -1, -1, 0, (None, (b"D", 2**31 - 1, 1, 1))),
    (1, (2,), FLOAT, False, b"12345678"),
    (1, (2**62,), FLOAT, False, b"12345678"),
    (1, (2,), FLOAT, False, ARRAY),
    (1, (2,), DTYPE, False, [1, 2]),
    (1, (2,), called(DTYPE, "O"), False, [None, None]),
    SHARED,
    DEEP,
]


def read_all(name: tuple[str, str]) -> dict[str, Any]:
    """Calls one entry of the table in each way, and gives states to it and to what it makes."""
    events: list[str] = []
    listening = False

    def listen(event: str, arguments: tuple) -> None:
        if listening and not event.startswith(("object.__getattr__", "builtins.id")):
            events.append(event)

    def loads(content: bytes) -> bool:
        nonlocal listening
        with time_limit(2):
            listening = True
            try:
                found = restricted_load(io.BytesIO(content))
            except Exception:  # `read_pickle` makes a refusal of any kind
                return False
            finally:
                listening = False
            check_plain(found)
        return True

    sys.addaudithook(listen)
    function = named(*name)
    made = [function]
    for arguments in ARGUMENTS:
        pushed = function + value(arguments)
        if loads(program(pushed, b"R")):
            made.append(Code(pushed + b"R"))
        loads(program(pushed, b"\x81"))
        loads(program(pushed, value({"x": 1, "copy": SHARED}), b"\x92"))
        loads(program(b"(", function, b"".join(map(value, arguments)), b"o"))
    if name[1] == "_reconstruct":
        made += [built(EMPTY, (1, (2,), FLOAT, False, b"12345678")), EMPTY]
    for instance in made:
        for state in STATES:
            loads(program(built(instance, state)))
    return {"fault": f"{events[0]} happened"} if events else {"made": len(made)}


# One name of each function: several modules have the same.
NAMES = list({id(function): name for name, function in ALLOWED.items()}.values())


@pytest.mark.parametrize("name", NAMES, ids=".".join)
def test_hostile_calls_and_states(name: tuple[str, str]) -> None:
    answer = in_child(lambda: read_all(name), 1 << 30)
    assert "fault" not in answer, answer["fault"]


def test_a_deep_tuple_is_no_key() -> None:
    """Its hash calls itself in C, and overflows the stack."""
    deep = b"K\x01" + b"\x85" * 150_000

    def load() -> dict[str, Any]:
        for content in (b"}" + deep + b"K\x01s", b"(" + deep + b"\x91", b"\x8f(" + deep + b"\x90"):
            with pytest.raises(NotPlain, match="a mapping with a key"):
                restricted_load(io.BytesIO(program(content)))
        return {}

    assert in_child(load, 1 << 30) == {}


def test_a_state_that_would_crash_numpy_is_refused_by_name(tmp_path: Path) -> None:
    """A dtype of objects that says that it holds none: bytes of the file would be pointers."""
    lies = built(called(DTYPE, "O", False, True), (3, "|", None, None, None, -1, -1, 0))
    records = built(called(DTYPE, "V8", False, True), (3, "|", None, ("a", "b"), {}, 8, 1, 0))
    longer = built(called(DTYPE, "f4", False, True), (3, "<", None, None, None, 1 << 20, 4, 0))
    for made in (lies, records, longer):
        (tmp_path / "x.pkl").write_bytes(program(value({"a": made})))
        with pytest.raises(InputError, match="x.pkl holds a numpy .* which is refused"):
            open_file(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    "field, wrong",
    [
        *enumerate((2, "!", (), ("a",), {}, 4, 4, 1)),
        *((1, 7), (0, 3.0), (5, -1.0), (7, False), (0, 4), (1, None), (1, "")),
    ],
)
def test_only_the_plain_state_of_a_dtype_is_taken(field: int, wrong: Any) -> None:
    state: list[Any] = [3, "<", None, None, None, -1, -1, 0]
    made = built(called(DTYPE, "f4", False, True), tuple(state))
    assert restricted_load(io.BytesIO(program(made))) == np.dtype("<f4")
    state[field] = wrong
    with pytest.raises(NotPlain):
        restricted_load(io.BytesIO(program(built(called(DTYPE, "f4"), tuple(state)))))


def test_nothing_of_the_table_can_be_changed() -> None:
    """BUILD sets attributes; of a function or a class of the table it would stay for all files."""
    before = {name: dict(vars(one)) for name, one in ALLOWED.items() if hasattr(one, "__dict__")}
    for name in ALLOWED:
        for state in ({"x": 1}, (None, {"__doc__": "x"}), (None, {"x": 1})):
            with pytest.raises(pickle.UnpicklingError):
                restricted_load(io.BytesIO(program(built(named(*name), state))))
    after = {name: dict(vars(one)) for name, one in ALLOWED.items() if hasattr(one, "__dict__")}
    assert after == before


@pytest.mark.parametrize("code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"\x97"])
def test_nothing_comes_from_outside_of_the_file(code: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="not in the file"):
        restricted_load(io.BytesIO(program(code)))
    with pytest.raises(pickle.UnpicklingError, match="not in the file"):
        restricted_load(io.BytesIO(program(value(b"12345678"), b"\x98")))


def test_out_of_band_buffers_of_a_real_pickler_are_refused() -> None:
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(np.zeros(4), protocol=5, buffer_callback=buffers.append)
    assert buffers
    with pytest.raises(pickle.UnpicklingError, match="a buffer"):
        restricted_load(io.BytesIO(content))


@pytest.mark.parametrize("code", [b"\x8d", b"\x8e", b"\x96", b"\x95", b"\x8b", b"X", b"B", b"T"])
def test_a_length_that_lies_takes_no_memory(code: bytes) -> None:
    form = "<Q" if code in (b"\x8d", b"\x8e", b"\x96", b"\x95") else "<i"
    content = program(code, struct.pack(form, 2**31 - 1), b"abc")

    def load() -> dict[str, Any]:
        with pytest.raises(EOFError):
            restricted_load(io.BytesIO(content))
        return {}

    assert in_child(load, 200 << 20) == {}


def test_a_text_that_is_copied_a_million_times_is_refused() -> None:
    encode = named("_codecs", "encode")
    text = Code(value("a" * 1000) + b"q\x00")
    calls = b"".join(b"(h\x01(h\x00X\x06\x00\x00\x00latin1tRt0" for _ in range(10_000))
    content = program(encode, b"q\x01", b"0", text, calls)
    with pytest.raises(NotPlain, match="expands"):
        restricted_load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(3, 6))
def test_transposed_arrays_keep_their_axes(protocol: int) -> None:
    """numpy 2.3 and newer write those of protocol 5 in the order of the memory, with the axes."""
    for axes in ((0, 1, 2), (0, 2, 1), (2, 0, 1)):
        array = np.arange(60.0).reshape(3, 4, 5).transpose(axes)
        found = restricted_load(io.BytesIO(pickle.dumps(array, protocol=protocol)))
        assert found.shape == array.shape and np.array_equal(found, array)


@pytest.mark.parametrize("unit", ["D", "25s", "ns", "generic"])
def test_dates_keep_their_unit(unit: str) -> None:
    dtype = np.dtype("M8" if unit == "generic" else f"M8[{unit}]")
    array = np.array([1, 2], dtype="i8").view(dtype)
    found = restricted_load(io.BytesIO(pickle.dumps(array)))
    assert found.dtype == dtype and np.array_equal(found.view("i8"), [1, 2])
