"""Damaged entries of a TensorFlow index: fields of the wrong kind."""

from __future__ import annotations

import pytest

from transfer.checkpoints.readers.tf_bundle import Damaged, _entry


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
