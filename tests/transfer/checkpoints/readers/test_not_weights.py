"""A message names what a file is if it is not a weights file; "truncated" means a cut file."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.common.errors import InputError
from tools.convert_weights import main
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.readers.raw import open_file

STATE = {"conv1.weight": torch.zeros(64, 3, 7, 7)}


def saved(content: object = STATE) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def tarred(mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        info = tarfile.TarInfo("moco.pth")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    return stream.getvalue()


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
    return stream.getvalue()


def numpy_bytes(save: Callable, **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


FILES: dict[str, tuple[bytes, str]] = {
    "html": (b"\n<!DOCTYPE html><html><title>Google Drive</title>", "HTML page.*download"),
    "html without doctype": (b"<HTML><HEAD>", "HTML page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "XML answer"),
    "json": (b'{"error": "not found"}', r"JSON text \(\{\"error\": \"not found\"\}\)"),
    "index": (b'{"metadata": {"total_size": 1}, "weight_map": {}}', "Hugging Face .*in several"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "git lfs pull"),
    "text": (b"404: Not Found", "a text .404: Not Found."),
    "gzip": (gzip.compress(saved()), "gzip -dc"),
    "tar": (tarred("w"), r"tar archive \(of moco.pth\); unpack"),
    "tar.gz": (tarred("w:gz"), r"tar archive packed with gzip \(of moco.pth\); unpack"),
    "xz": (b"\xfd7zXZ\0" + b"\0" * 9, "xz; unpack"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "HDF5"),
    "zip": (
        zipped(moco__x_pth=b"a", readme=b"b"),
        r"zip archive \(of moco/x_pth, readme\); unpack",
    ),
    "torchscript": (
        zipped(**{"m__data.pkl": b"", "m__constants.pkl": b"", "m__code__a.py": b""}),
        r"TorchScript.*torch.jit.load\('file.pth', 'cpu'\).state_dict\(\)",
    ),
    "npz": (numpy_bytes(np.savez, a=np.zeros(2)), "numpy.load"),
    "npy": (numpy_bytes(np.save, arr=np.zeros(2)), "array of numpy"),
    "zeros": (b"\0" * 4096, "a file of zeros"),
    "picture": (b"\x89PNG\r\n", "PNG"),
    "ini": (b"[ZoneTransfer]\r\nZoneId=3\r\n", r"a text \(\[ZoneTransfer\] ZoneId=3\)"),
    "list": (b'[{"a": 1}]', "JSON text"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x062.14.1", "an ONNX graph; give the checkpoint"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 9, "a TensorFlow Lite graph"),
    "flax": (b"\x81\xa6params\x81\xa5conv1\x80", "msgpack .Flax.*safetensors"),
}


@pytest.mark.parametrize("name", FILES)
def test_named_by_its_first_bytes(name: str, tmp_path: Path) -> None:
    data, wanted = FILES[name]
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"file.pth is not a weights file but .*{wanted}") as found:
        open_file(path)
    assert "truncated" not in str(found.value) and "\n" not in str(found.value)


def test_truncated_is_what_is_cut(tmp_path: Path) -> None:
    old = io.BytesIO()
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    for data in (saved(), old.getvalue()):
        for end in (len(data) // 2, -20):
            (tmp_path / "x.pth").write_bytes(data[:end])
            with pytest.raises(InputError, match="x.pth is truncated: .*again"):
                open_file(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(saved({"a": np.array([None])}))
    with pytest.raises(InputError) as caught:
        open_file(tmp_path / "x.pth")
    assert "truncated" not in str(caught.value).partition("x.pth")[2]


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"x")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "names, wanted",
    [
        ((".metadata", "__0_0.distcp"), "dcp_to_torch .*run weights.pth"),
        (("data.pkl", "data/0", "version"), "zip -0 -r weights.pth run"),
        (
            ("latest", "global_step9/mp_rank_00_model_states.pt"),
            "give .*mp_rank_00_model_states.pt",
        ),
        (
            ("latest", "global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt"),
            "ZeRO 3.*zero_to_fp32.py",
        ),
        (("readme", "checkpoint_9.pth"), r"inside it \(checkpoint_9.pth\)"),
        (
            ("version_0/hparams.yaml", "version_0/checkpoints/last.ckpt"),
            r"inside it \(version_0/checkpoints/last.ckpt\)",
        ),
        (("readme",), "give the weights file inside it$"),
    ],
)
def test_folders_are_named_with_the_file_to_give(
    names: tuple[str, ...],
    wanted: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    folder = folder_of(tmp_path, *names)
    with pytest.raises(InputError, match=wanted):
        read_weights(str(folder))
    assert main([str(folder), "--check"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_part_of_a_sharded_or_unpacked_save(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, ".metadata", "__0_0.distcp", "data.pkl", "data/0")
    with pytest.raises(InputError, match="dcp_to_torch"):
        read_weights(str(folder / "__0_0.distcp"))
    (folder / ".metadata").unlink()
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(InputError, match="zip -0 -r weights.pth run"):
        read_weights(str(folder / "data.pkl"))


def test_a_file_of_zero_3_is_named(tmp_path: Path) -> None:
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save({"module": {"conv1.weight": torch.zeros(0)}, "ds_version": "0.14"}, path)
    with pytest.raises(InputError, match="ZeRO 3.*zero_to_fp32.py"):
        read_weights(str(path))
    torch.save({"optimizer_state_dict": {"zero_stage": 3}}, path)
    with pytest.raises(InputError, match="ZeRO 3"):
        read_weights(str(path))
