"""numpy arrays in pickles: every plain dtype keeps its values; damaged ones are refused."""

from __future__ import annotations

import argparse
import io
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.numpy_pickle import NotPlain
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
