"""Files from strangers: nothing in them runs, whatever container it hides in."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.unpickle import ForbiddenGlobal, restricted_load


class Planted:
    """Pickles as a call of os.system that leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


def load(content: object, protocol: int = 4) -> object:
    return restricted_load(io.BytesIO(pickle.dumps(content, protocol=protocol)))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_builtins_pass(protocol: int) -> None:
    content = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.ones((2, 3))),
        "scalar": np.float64(2.5),
        "nested": OrderedDict(x=[1, (2.0, None)], y={True, b"bytes".decode()}),
        "raw": b"\x00\xff",
    }
    loaded = load(content, protocol)
    assert np.array_equal(loaded["a"], content["a"])
    assert np.array_equal(loaded["fortran"], content["fortran"])
    assert loaded["scalar"] == 2.5
    assert loaded["nested"] == content["nested"] and loaded["raw"] == content["raw"]


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_both_names_of_numpys_core(module: str) -> None:
    data = pickle.dumps(np.zeros(3, dtype=np.float32), protocol=2)
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        data = data.replace(name, module.encode())
    assert restricted_load(io.BytesIO(data)).tolist() == [0, 0, 0]


GLOBALS = [
    ("os", "system"),
    ("posix", "system"),
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("numpy", "load"),
    ("numpy", "ndarray.__class__"),
    ("collections", "OrderedDict.__init_subclass__"),
    ("torch", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("subprocess", "Popen"),
    ("functools", "partial"),
    ("numpy.testing._private.utils", "runstring"),
]


@pytest.mark.parametrize("module, name", GLOBALS)
def test_other_globals_are_refused_by_name(module: str, name: str) -> None:
    short = b"\x8c" + bytes([len(module)]) + module.encode()
    short += b"\x8c" + bytes([len(name)]) + name.encode()
    for data in (b"\x80\x04" + short + b"\x93.", f"c{module}\n{name}\n.".encode()):
        with pytest.raises(ForbiddenGlobal, match=f"{module}.{name}"):
            restricted_load(io.BytesIO(data))


def test_codecs_only_for_old_bytes() -> None:
    data = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(ForbiddenGlobal, match="rot13"):
        restricted_load(io.BytesIO(data))


def test_persistent_objects_are_refused() -> None:
    with pytest.raises(ForbiddenGlobal, match="persistent"):
        restricted_load(io.BytesIO(b"\x80\x02U\x01aQ."))


def planted_files(folder: Path) -> dict[str, Path]:
    """The same payload in each container, named as an honest file of it is."""
    mark = folder / "executed"
    content = {"model": {"stem.conv1.weight": Planted(mark)}, "__author__": "x"}
    files = {"pkl": folder / "a.pkl", "named_pth": folder / "b.pth"}
    for path in files.values():
        path.write_bytes(pickle.dumps(content))
    files["text_pkl"] = folder / "c.pkl"
    files["text_pkl"].write_bytes(pickle.dumps(content, protocol=0))
    files["zip"] = folder / "d.pth"
    torch.save({"state_dict": {"module.encoder_q.conv1.weight": Planted(mark)}}, files["zip"])
    files["legacy"] = folder / "e.pth"
    torch.save(content, files["legacy"], _use_new_zipfile_serialization=False)
    files["zip_as_safetensors"] = folder / "f.safetensors"
    torch.save(content, files["zip_as_safetensors"])
    files["plain_zip"] = folder / "g.pth"
    with zipfile.ZipFile(files["plain_zip"], "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(content))
        archive.writestr("archive/version", "3")
    return files


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_planted_code_never_runs(tmp_path: Path) -> None:
    for path in planted_files(tmp_path).values():
        with pytest.raises(InputError) as caught:
            read_weights(str(path))
        assert "\n" not in str(caught.value) and path.name in str(caught.value)
        assert not (tmp_path / "executed").exists(), path


@pytest.mark.parametrize("key", ["pkl", "zip", "legacy"])
def test_the_message_names_the_global_and_the_way_out(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(posix|os)\.system.*--trust"):
        read_weights(str(planted_files(tmp_path)[key]))


def test_trust_reads_what_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"where": PurePosixPath("a")}))
    with pytest.raises(InputError, match="--trust"):
        open_file(path)
    assert open_file(path, trust=True).content == {"where": PurePosixPath("a")}
    torch.save({"where": PurePosixPath("a")}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="--trust"):
        open_file(tmp_path / "x.pth")
    assert open_file(tmp_path / "x.pth", trust=True).content == {"where": PurePosixPath("a")}


def test_what_real_torch_files_hold_is_admitted(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(lr=1.0), "best": np.float64(76.5), "x": np.arange(3)}
    torch.save(content, tmp_path / "x.pth")
    loaded = open_file(tmp_path / "x.pth").content
    assert loaded["args"].lr == 1.0 and loaded["best"] == 76.5 and loaded["x"].tolist() == [0, 1, 2]


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    shape = pickle.dumps((1 << 24, 4), protocol=2)[2:-1]
    data = b"\x80\x02}X\x01\x00\x00\x00acnumpy\nndarray\n" + shape + b"X\x02\x00\x00\x00f4\x86Rs."
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(InputError, match="more than the file holds"):
        open_file(tmp_path / "x.pkl")
