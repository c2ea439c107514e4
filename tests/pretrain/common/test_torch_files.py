"""Files of torch.save: damage after they were written, and content made to end the process."""

from __future__ import annotations

import io
import logging
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.common import checkpoint
from pretrain.common.errors import InputError
from pretrain.common.torch_files import DEEPEST, SAFE_TUPLES, check_torch_file
from tests.faults.fuzzing import in_child


def saved(path: Path) -> Path:
    checkpoint.save_checkpoint({"model": {"a": torch.randn(1000), "b": torch.randn(10)}}, path)
    return path


def begin_of(path: Path, name: str) -> int:
    """Where the bytes of a zip's entry begin in the file."""
    with zipfile.ZipFile(path) as archive:
        entry = next(one for one in archive.infolist() if one.filename.endswith(name))
    data = path.read_bytes()
    lengths = struct.unpack_from("<HH", data, entry.header_offset + 26)
    return entry.header_offset + 30 + sum(lengths)


@pytest.mark.parametrize("name", ["data/0", "data/1", "data.pkl", "byteorder"])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_refused_by_the_name_of_its_entry(
    name: str, bit: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "x.pth")
    check_torch_file(path)
    at, data = begin_of(path, name), bytearray(path.read_bytes())
    data[at + 2] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"x.pth is damaged: its entry .*{name}.*earlier"):
        checkpoint.load_torch_file(path)


def edited(path: Path, edit: Callable[[bytearray, int], None]) -> None:
    data = bytearray(path.read_bytes())
    edit(data, data.rfind(b"PK\x01\x02"))
    path.write_bytes(data)


def without_magic(data: bytearray, at: int) -> None:
    data[at] ^= 0xFF


def name_not_utf8(data: bytearray, at: int) -> None:
    data[at + 9] |= 0x08
    data[at + 46 : at + 50] = b"\xff\xff\xff\xff"


def compressed_oddly(data: bytearray, at: int) -> None:
    data[at + 10] = 99


def encrypted(data: bytearray, at: int) -> None:
    data[at + 8] |= 1


def elsewhere(data: bytearray, at: int) -> None:
    data[at + 42 : at + 46] = b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "edit", [without_magic, name_not_utf8, compressed_oddly, encrypted, elsewhere]
)
def test_a_damaged_directory_is_one_line(edit: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pth")
    edited(path, edit)
    with pytest.raises(InputError, match="x.pth (is|has a) damaged"):
        checkpoint.load_torch_file(path)


def test_a_file_without_checksums_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = saved(tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load_torch_file(path)["model"]["a"].shape == (1000,)
    assert "without checksums" in caplog.text


@pytest.mark.parametrize("version", [None, "1", 0, -1, True, 2.0, [1]])
def test_a_checkpoint_without_a_version_is_refused(version: Any, tmp_path: Path) -> None:
    content = {"format": checkpoint.FORMAT, "version": version}
    torch.save({k: v for k, v in content.items() if v is not None}, tmp_path / "x.pth")
    with pytest.raises(InputError, match="x.pth is damaged: it has no format version"):
        checkpoint.load_checkpoint(tmp_path / "x.pth")


def with_pickle(path: Path, content: bytes) -> Path:
    """A torch file with this pickle, its checksums right."""
    stream = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as made:
        for entry in source.infolist():
            is_pickle = entry.filename.endswith("data.pkl")
            made.writestr(entry.filename, content if is_pickle else source.read(entry))
    return path


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("step", [b"\x85", b"N\x86", b"NN\x87", b"(", b"2\x86"])
def test_deeply_nested_tuples_are_refused_before_torch_reads_them(
    step: bytes, legacy: bool, tmp_path: Path
) -> None:
    """As a key of a mapping they would end the process."""
    depth = 100_000
    nested = b"(" * depth + b"K\x01" + b"t" * depth if step == b"(" else b"K\x01" + step * depth
    content = b"\x80\x02}" + nested + b"K\x01s."
    path = tmp_path / "x.pth"
    if legacy:
        stream = io.BytesIO()
        torch.save({}, stream, _use_new_zipfile_serialization=False)
        path.write_bytes(stream.getvalue().replace(pickle.dumps({}, 2), content))
    else:
        with_pickle(path, content)

    def load() -> dict[str, Any]:
        with pytest.raises(InputError, match=f"x.pth nests tuples more than {DEEPEST} deep"):
            checkpoint.load_torch_file(path)
        return {}

    assert in_child(load) == {}


def test_many_tuples_beside_each_other_are_read(tmp_path: Path) -> None:
    content = {"lengths": [((i,), (i, (i, i))) for i in range(SAFE_TUPLES)]}
    torch.save(content, tmp_path / "x.pth")
    assert checkpoint.load_torch_file(tmp_path / "x.pth") == content
