"""Files from strangers: no code in them runs, whichever container it is in."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import pickle
import zipfile
from collections import OrderedDict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.digits.dataset import make_digits
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.readers.unpickle import ForbiddenGlobal, restricted_load


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
    """The same payload in each container, under the usual file name of that container."""
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
    content = {"log": deque([1, 2])}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
    torch.save(content, tmp_path / "x.pth")
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("x.pkl", "x.pth", "old.pth"):
        with pytest.raises(InputError, match=r"collections\.deque.*--trust"):
            open_file(tmp_path / name)
        assert open_file(tmp_path / name, trust=True).content == content


def test_what_real_torch_files_hold_is_admitted(tmp_path: Path) -> None:
    content = {"args": argparse.Namespace(lr=1.0), "best": np.float64(76.5), "x": np.arange(3)}
    torch.save(content, tmp_path / "x.pth")
    loaded = open_file(tmp_path / "x.pth").content
    assert loaded["args"].lr == 1.0 and loaded["best"] == 76.5 and loaded["x"].tolist() == [0, 1, 2]


def test_an_array_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    shape = pickle.dumps((1 << 24, 4), protocol=2)[2:-1]
    data = b"\x80\x02}X\x01\x00\x00\x00acnumpy\nndarray\n" + shape + b"X\x02\x00\x00\x00f4\x86Rs."
    (tmp_path / "x.pkl").write_bytes(data)
    with pytest.raises(InputError, match="x.pkl holds a numpy array that is never filled"):
        open_file(tmp_path / "x.pkl")


def test_a_compressed_torch_file_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1 << 20)}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as plain:
        parts = {name: plain.read(name) for name in plain.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)
    with pytest.raises(InputError, match="y.pth declares 4.* more than the file has"):
        open_file(tmp_path / "y.pth")


@pytest.mark.parametrize("length", [1 << 60, (1 << 63) - 1, 10_000])
def test_a_safetensors_header_longer_than_its_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"a":{}}')
    with pytest.raises(InputError, match="x.safetensors is not a readable"):
        open_file(path)


def test_a_tensor_far_larger_than_its_file_is_not_unfolded(tmp_path: Path) -> None:
    huge = torch.zeros(()).expand(1 << 20, 1 << 20)
    torch.save({"conv1.weight": huge, "layer1.0.conv1.weight": huge}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="x.pth"):
        read_weights(str(tmp_path / "x.pth"))


@pytest.mark.parametrize(
    "data, name",
    [
        (b"cdill._dill\n_import_module\n(X\x02\x00\x00\x00ostR.", "module os"),
        (b"cdill._dill\n_import_module\n(X\x08\x00\x00\x00builtinstR.", "module builtins"),
        (
            b"cdill._dill\n_get_attr\n(cdill._dill\n_import_module\n(X\x07\x00\x00\x00_codecstR"
            b"X\x06\x00\x00\x00lookuptR.",
            "attribute lookup",
        ),
        (b"cdill._dill\n_get_attr\n(cnumpy\nndarray\nX\x04\x00\x00\x00dumptR.", "attribute dump"),
        (b"cdill._dill\n_create_array\n(cbuiltins\nlist\n)(ltR.", "an array from"),
        (b"cdill._dill\n_load_type\n.", "dill._dill._load_type"),
        (b"cjax._src.array\nother\n.", "jax._src.array.other"),
    ],
)
def test_dills_recipes_reach_nothing_else(data: bytes, name: str) -> None:
    with pytest.raises(ForbiddenGlobal, match=name):
        restricted_load(io.BytesIO(b"\x80\x02" + data))


class Named:
    """Pickles as a call of a function by an importable name."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def test_names_that_public_files_use_stand_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exclude_bias_and_norm(parameter: object) -> None:
        (tmp_path / "executed").touch()

    exclude_bias_and_norm.__module__ = "__main__"
    exclude_bias_and_norm.__qualname__ = "exclude_bias_and_norm"
    main = __import__("sys").modules["__main__"]
    monkeypatch.setattr(main, "exclude_bias_and_norm", exclude_bias_and_norm, raising=False)
    content = {"filter": exclude_bias_and_norm, "called": Named(exclude_bias_and_norm, 1)}
    torch.save({**content, "bound": Named(getattr, argparse.Namespace, "x")}, tmp_path / "x.pth")
    loaded = open_file(tmp_path / "x.pth").content
    assert {type(loaded[k]).__name__ for k in ("called", "bound")} == {"Inert"}
    assert not (tmp_path / "executed").exists()


COMMANDS = {
    "convert_weights": "FILE --check",
    "train_cls": "--config linear_digits.yaml --weights FILE --output OUT",
    "train_det": "--config digits_voc.yaml --weights FILE --output OUT --engine torchvision",
    "train_det eval": "--config digits_voc.yaml --weights FILE --eval-only --output OUT",
    "visualize": "kernels --weights FILE --output OUT",
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("command", COMMANDS)
def test_planted_code_runs_in_no_command(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "data"
    make_digits(data, classification=(20, 20, 20), scenes=(2, 0, 2))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    tool = importlib.import_module(f"tools.{command.split()[0]}")
    for key, path in planted_files(tmp_path).items():
        words = COMMANDS[command].replace("OUT", str(tmp_path / f"out_{key}"))
        assert tool.main(words.replace("FILE", str(path)).split()) == 2, (command, key)
        assert path.name in capsys.readouterr().err
        assert not (tmp_path / "executed").exists(), path
