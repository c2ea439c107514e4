"""Damaged entries of a TensorFlow index: fields of the wrong kind, wrong shapes and places."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pretrain.common.errors import InputError
from transfer.checkpoints.readers import tf_bundle
from transfer.checkpoints.readers.tf_bundle import Damaged, Entry, _entry


def test_an_entrys_fields() -> None:
    """dtype 1, shape (3, 2), offset 4, 24 bytes."""
    proto = bytes.fromhex("0801 1208 1202 0803 1202 0802 2004 2818")
    entry = _entry(proto)
    assert (entry.dtype, entry.shape, entry.offset, entry.size) == (1, (3, 2), 4, 24)
    assert entry.shard == 0 and not entry.sliced


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        ("1005", "a number for bytes"),  # a shape that is the number 5
        ("1202 1005", "a number for bytes"),  # a dimension that is
        ("0a00", "bytes for a number"),  # a dtype of 0 bytes
        ("2a0118", "bytes for a number"),  # a size of 1 byte
        ("1204 1202 0a00", "bytes for a number"),  # a dimension's size
    ],
)
def test_a_field_of_the_wrong_kind_is_damage(proto: str, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        _entry(bytes.fromhex(proto))


def read_entries(
    entries: list[Entry], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, torch.Tensor]:
    """What is read of an index with these entries, beside a data file of 8 bytes."""
    (folder / "x.data-00000-of-00001").write_bytes(bytes(8))
    named = {str(number): entry for number, entry in enumerate(entries)}
    monkeypatch.setattr(tf_bundle, "read_index", lambda file: named)
    return tf_bundle.read_tf_bundle(folder / "x.index")[0]


@pytest.mark.parametrize(
    "shape", [(2**70, 0), (0, 2**63 - 1), (2**62, 2**62, 0), (0,) * 70, (1,) * 70]
)
def test_a_shape_that_no_array_has_is_refused(
    shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(1, shape, 0, 0, 0 if 0 in shape else 4, False)
    with pytest.raises(InputError, match="x.index: 0 cannot have its shape"):
        read_entries([entry], tmp_path, monkeypatch)


def test_an_index_cannot_name_one_tensor_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 names of one tensor of 9 MB would be 90 GB."""
    apart = [Entry(1, (1,), 0, 0, 4, False), Entry(1, (1,), 0, 4, 4, False)]
    monkeypatch.setattr(tf_bundle, "HARMLESS_BYTES", 0)
    assert len(read_entries(apart, tmp_path, monkeypatch)) == 2
    with pytest.raises(InputError, match="more tensors than its data files"):
        read_entries([*apart, apart[0]], tmp_path, monkeypatch)
