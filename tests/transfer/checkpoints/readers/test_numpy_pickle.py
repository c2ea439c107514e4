"""numpy arrays in pickles: every plain dtype keeps its values; damaged ones are refused."""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from tests.transfer.checkpoints.readers import hostile_pickles as steps
from tests.transfer.checkpoints.readers.hostile_pickles import Code, called, named, program
from transfer.checkpoints.readers.numpy_pickle import DEPTH, NotPlain
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.torch_file import read_torch
from transfer.checkpoints.readers.unpickle import restricted_load

PLAIN = {
    **{kind: np.arange(6).reshape(2, 3).astype(kind) for kind in "?bhilqBHILQefdgFDG"},
    "big endian": np.arange(3, dtype=">i2"),
    "text": np.array(["cat", "doggy", ""]),
    "bytes": np.array([b"cat", b"doggy"]),
    "dates": np.array(["2024-01-02", "2024-03-04"], dtype="M8[D]"),
    "spans": np.array([1, 2], dtype="m8[ns]"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3), dtype="f4"),
    "no text": np.array([], dtype="U5"),
    "no dimension": np.array(7, dtype="i2"),
    "a text": np.str_("moco"),
    "an empty text": np.str_(""),
    "empty bytes": np.bytes_(b""),
    "a boolean": np.bool_(True),
    "a number": np.float16(0.5),
    "a complex number": np.complex64(1 + 2j),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", PLAIN)
def test_every_plain_dtype_in_a_pickle(name: str, protocol: int) -> None:
    content = {"x": PLAIN[name], "deep": [{"y": (PLAIN[name],)}]}
    if protocol:
        content["args"] = argparse.Namespace(z=PLAIN[name])
    loaded = restricted_load(io.BytesIO(pickle.dumps(content, protocol=protocol)))
    last = loaded["args"].z if protocol else loaded["x"]
    for found in (loaded["x"], loaded["deep"][0]["y"][0], last):
        assert found.dtype == PLAIN[name].dtype and found.shape == PLAIN[name].shape
        assert type(found) is type(PLAIN[name]) and np.array_equal(found, PLAIN[name])


@pytest.mark.parametrize("zipped", [True, False])
def test_every_plain_dtype_in_a_torch_file(zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(PLAIN, path, _use_new_zipfile_serialization=zipped)
    loaded, _ = read_torch(path)
    for name, wanted in PLAIN.items():
        assert np.array_equal(loaded[name], wanted) and loaded[name].dtype == wanted.dtype, name


def test_paths_of_every_system_are_read(tmp_path: Path) -> None:
    content = {"a": pathlib.PurePosixPath("/x/y"), "b": pathlib.PureWindowsPath("C:/x")}
    windows = pickle.dumps(content, protocol=2).replace(b"PureWindowsPath", b"WindowsPath")
    (tmp_path / "x.pkl").write_bytes(windows)
    assert open_file(tmp_path / "x.pkl").content == content
    torch.save({**content, "c": Path("/z")}, tmp_path / "x.pth")
    loaded = open_file(tmp_path / "x.pth").content
    assert loaded == {**content, "c": pathlib.PurePosixPath("/z")}


@pytest.mark.parametrize(
    "value, what",
    [
        (np.array([{}, None], dtype=object), "dtype 'O8'"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype 'V4'"),
        (np.ma.masked_array([1, 2]), "numpy.ma"),
        (np.random.default_rng(0), "numpy.random._pickle"),
    ],
)
def test_other_arrays_are_refused_by_name(value: object, what: str, tmp_path: Path) -> None:
    torch.save({"x": value}, tmp_path / "x.pth")
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"x": value}))
    for name in ("x.pth", "x.pkl"):
        with pytest.raises(InputError, match=f"{name} .*{what}.*--trust") as caught:
            open_file(tmp_path / name)
        assert "truncated" not in str(caught.value)


def built(state: object, of: bytes) -> bytes:
    """A pickle of `of` with a state set by BUILD."""
    return b"\x80\x02" + of + pickle.dumps(state, protocol=2)[2:-1] + b"b."


DTYPE = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


@pytest.mark.parametrize(
    "data",
    [
        built((3, "<", None, ("a",), {"a": (None, 0)}, -1, -1, 0), DTYPE),
        built((3, 7, None, None, None, -1, -1, 0), DTYPE),
        built(None, DTYPE),
        built((1, (2,), "f4", False, b"12345678"), ARRAY),
        built((1, (-1,), None, False, b""), ARRAY),
        built((1 << 40,), ARRAY),
    ],
)
def test_damaged_states_are_refused(data: bytes) -> None:
    with pytest.raises(NotPlain):
        restricted_load(io.BytesIO(data))


def test_an_array_that_declares_more_than_it_has_is_refused() -> None:
    data = pickle.dumps(np.zeros(4, dtype=np.float32), protocol=2)
    for shape in (b"K\x05\x85", b"J\x00\x00\x00\x7f\x85"):
        with pytest.raises(NotPlain, match="declares"):
            restricted_load(io.BytesIO(data.replace(b"K\x04\x85", shape)))


NDARRAY, KIND = named("numpy", "ndarray"), named("numpy", "dtype")
RECONSTRUCT = named("numpy._core.multiarray", "_reconstruct")
BUFFER = named("numpy._core.numeric", "_frombuffer")
SCALAR = named("numpy._core.multiarray", "scalar")
FLOATS = called(KIND, "<f4")
START = called(RECONSTRUCT, NDARRAY, (0,), b"b")
SIX = np.arange(6, dtype="<f4")


def of_state(*state: object) -> Code:
    return steps.built(START, state)


def loaded(content: bytes) -> object:
    return restricted_load(io.BytesIO(program(content)))


@pytest.mark.parametrize(
    "content, wanted",
    [
        (of_state(1, (2, 3), FLOATS, False, SIX.tobytes()), SIX.reshape(2, 3)),
        (of_state((6,), FLOATS, 0, SIX.tobytes()), SIX),
        (of_state(1, (2, 3), FLOATS, True, SIX.tobytes()), SIX.reshape(2, 3, order="F")),
        (of_state(1, (2, 3), FLOATS, 1, SIX.tobytes()), SIX.reshape(2, 3, order="F")),
        (of_state(1, (6,), FLOATS, False, SIX.tobytes().decode("latin1")), SIX),
        (of_state(1, (1,) * 32, FLOATS, False, b"\0" * 4), np.zeros((1,) * 32, "<f4")),
        (of_state(1, (0, 2**48 - 1), FLOATS, False, b""), np.zeros((0, 2**48 - 1), "<f4")),
        (called(BUFFER, SIX.tobytes(), FLOATS, (3, 2), "C"), SIX.reshape(3, 2)),
        (called(BUFFER, SIX.tobytes(), FLOATS, (3, 2), "F"), SIX.reshape(3, 2, order="F")),
        (called(BUFFER, SIX.tobytes(), FLOATS, (3, 2), "K", (1, 0)), SIX.reshape(3, 2).T),
        (called(BUFFER, called(named("builtins", "bytearray"), SIX.tobytes()), FLOATS, (6,)), SIX),
        (called(NDARRAY, (2, 3), "<f4", SIX.tobytes()), SIX.reshape(2, 3)),
        (called(SCALAR, called(KIND, ">i2"), b"\1\2"), np.array(258, ">i2")),
        (called(SCALAR, called(KIND, "=U0"), b""), np.array("")),
    ],
)
def test_an_array_is_numpys(content: bytes, wanted: np.ndarray) -> None:
    found = loaded(content)
    assert found.shape == wanted.shape and np.array_equal(found, wanted)
    assert isinstance(found, np.generic) or found.dtype == wanted.dtype
    assert isinstance(found, np.generic) or found.flags.writeable


BYTES = b"\0" * 8
DAMAGED = {
    "a state of three": of_state((2,), FLOATS, BYTES),
    "a state of six": of_state(1, 1, (2,), FLOATS, False, BYTES),
    "a state that is a list": steps.built(START, [1, (2,), FLOATS, False, BYTES]),
    "a text for the order": of_state(1, (2,), FLOATS, "F", BYTES),
    "33 dimensions": of_state(1, (1,) * 33, FLOATS, False, b"\0" * 4),
    "a long dimension": of_state(1, (0, 2**48), FLOATS, False, b""),
    "a negative dimension": of_state(1, (-2, -1), FLOATS, False, BYTES),
    "a boolean dimension": of_state(1, (True, 2), FLOATS, False, BYTES),
    "a fraction of a dimension": of_state(1, (2.0,), FLOATS, False, BYTES),
    "a list for the shape": of_state(1, [2], FLOATS, False, BYTES),
    "too few bytes": of_state(1, (3,), FLOATS, False, BYTES),
    "too many bytes": of_state(1, (1,), FLOATS, False, BYTES),
    "a text for the type": of_state(1, (2,), "<f4", False, BYTES),
    "no bytes": of_state(1, (2,), FLOATS, False, [0] * 8),
    "an order of its own": called(BUFFER, BYTES, FLOATS, (2,), "A"),
    "an order that is a number": called(BUFFER, BYTES, FLOATS, (2,), 1),
    "axes without K": called(BUFFER, BYTES, FLOATS, (2, 1), "C", (1, 0)),
    "K without axes": called(BUFFER, BYTES, FLOATS, (2, 1), "K"),
    "one axis twice": called(BUFFER, BYTES, FLOATS, (2, 1), "K", (0, 0)),
    "a missing axis": called(BUFFER, BYTES, FLOATS, (2, 1), "K", (0,)),
    "axes that are a list": called(BUFFER, BYTES, FLOATS, (2, 1), "K", [0, 1]),
    "an axis that is a fraction": called(BUFFER, BYTES, FLOATS, (2, 1), "K", (0, 1.0)),
    "an array that is not filled": called(NDARRAY, (2,), "f4"),
    "a different class": called(RECONSTRUCT, KIND, (0,), b"b"),
    "a class that is a text": called(RECONSTRUCT, "ndarray", (0,), b"b"),
    "a type that is a number": called(KIND, 4),
    "a type with a text for align": called(KIND, "f4", "x"),
    "a type with a text for copy": called(KIND, "f4", False, "x"),
    "two types": called(KIND, "f4,f4"),
    "objects": called(KIND, "O"),
    "a number without bytes": called(SCALAR, FLOATS, b""),
    "a text with too many bytes": called(SCALAR, called(KIND, "U0"), b"1234"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_parts_that_do_not_make_an_array_are_refused(name: str) -> None:
    with pytest.raises(NotPlain):
        loaded(DAMAGED[name])


DATE = ({}, ("D", 1, 1, 1))


@pytest.mark.parametrize(
    "kind, state",
    [
        ("U5", (3, "<", None, None, None, 24, 4, 8)),
        ("U5", (3, "<", None, None, None, 20, 1, 0)),
        ("U5", (3, "<", None, None, None, -1, -1, 0)),
        ("S5", (3, "|", None, None, None, 6, 1, 0)),
        ("f4", (3, "<", None, None, None, -1, -1, 0, DATE)),
        ("f4", (4, "<", None, None, None, -1, -1, 0, DATE)),
        ("f4", (3, "<", None, None, None, -1, -1)),
        ("M8", (4, "<", None, None, None, -1, -1, 0)),
        ("M8", (3, "<", None, None, None, -1, -1, 0, DATE)),
        *(
            ("M8", (4, "<", None, None, None, -1, -1, 0, unit))
            for unit in (
                *(None, (), ("D",), ({"a": 1}, ("D", 1, 1, 1)), ({}, ("D", 1, 1, 1), 1)),
                *(({}, ("D", 1, 1)), ({}, ["D", 1, 1, 1]), ({}, ("D", "1", 1, 1)), ({}, "D111")),
                *(({}, ("X", 1, 1, 1)), ({}, (7, 1, 1, 1)), ({}, ("D", 0, 1, 1))),
                *(({}, ("D", 1 << 31, 1, 1)), [{}, ("D", 1, 1, 1)]),
            )
        ),
    ],
)
def test_states_of_texts_and_dates_are_numpys(kind: str, state: tuple) -> None:
    with pytest.raises(NotPlain):
        loaded(steps.built(called(KIND, kind), state))


@pytest.mark.parametrize(
    "kind, state, wanted",
    [
        ("U5", (3, ">", None, None, None, 20, 4, 8), ">U5"),
        ("S5", (3, "|", None, None, None, 5, 1, 0), "S5"),
        ("M8", (4, "<", None, None, None, -1, -1, 0, DATE), "<M8[D]"),
        ("m8", (4, "<", None, None, None, -1, -1, 0, (None, (b"ns", 25, 1, 1))), "<m8[25ns]"),
        ("m8", (4, ">", None, None, None, -1, -1, 0, ({}, (b"generic", 1, 1, 1))), ">m8"),
        ("M8", (4, "<", None, None, None, -1, -1, 0, ({}, ("as", 2**31 - 1, 1, 1))), None),
    ],
)
def test_types_that_a_state_makes(kind: str, state: tuple, wanted: str | None) -> None:
    found = loaded(steps.built(called(KIND, kind), state))
    assert found == np.dtype(wanted or f"<M8[{2**31 - 1}as]")


@pytest.mark.parametrize("make", [lambda x: [x], lambda x: (x,), lambda x: {"a": x}])
def test_a_container_in_a_hundred_others_is_read(make: Callable[[object], object]) -> None:
    content: object = 1
    for _ in range(DEPTH + 1):
        content = make(content)
    assert loaded(pickle.dumps(content, protocol=2)[2:-1]) == content
    with pytest.raises(NotPlain, match="more than 100 deep"):
        loaded(pickle.dumps(make(content), protocol=2)[2:-1])


def test_what_a_file_shares_stays_shared() -> None:
    plain, with_array = (1, [2]), ([np.zeros(2)], 3)
    content = {"a": plain, "b": [plain], "c": with_array, "d": [with_array], "e": with_array[0]}
    found = restricted_load(io.BytesIO(pickle.dumps(content)))
    assert found["a"] is found["b"][0] and found["c"] is found["d"][0]
    assert found["c"][0] is found["e"] and type(found["e"][0]) is np.ndarray
    assert (found["a"], found["c"][1]) == (plain, 3)
