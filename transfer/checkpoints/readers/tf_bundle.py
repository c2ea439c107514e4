"""TensorFlow's checkpoints (tensor bundles): `PREFIX.index` and `PREFIX.data-0000I-of-0000N`.

The index is a LevelDB table: blocks of prefix-compressed keys, a footer that points to the block
of blocks. Its values are protocol buffers, BundleEntryProto, that say where a tensor's bytes are.
Source: TensorFlow's core/util/tensor_bundle/tensor_bundle.h, core/lib/io/format.cc and
core/protobuf/tensor_bundle.proto. Strings, slices and compressed blocks, which no backbone has,
are refused.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pretrain.common.errors import InputError

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
FOOTER_BYTES = 48
# By DataType of core/framework/types.proto: numpy's name, little-endian.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 6: "i1", 9: "<i8", 10: "?", 14: "<i2", 19: "<f2"}
STRING, BFLOAT16 = 7, 14
# number of bytes that tensors may have together if they share the bytes of the data files
HARMLESS_BYTES = 1 << 30


class Damaged(Exception):
    """Says that the bytes are not a tensor bundle; the message says where."""


@dataclass(frozen=True)
class Entry:
    """Says where a tensor is: `size` bytes from byte `offset` on, in shard number `shard`."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    sliced: bool


def is_bundle(file: Path) -> bool:
    """Returns whether a file ends like a bundle's index."""
    if file.stat().st_size < FOOTER_BYTES:
        return False
    with file.open("rb") as stream:
        stream.seek(-len(MAGIC), 2)
        return stream.read() == MAGIC


def data_files(index: Path) -> list[Path]:
    """Returns the data files next to an index, in order."""
    return sorted(index.parent.glob(f"{index.stem}.data-*-of-*"))


def read_tf_bundle(file: Path, trust: bool = False) -> tuple[dict[str, Tensor], None]:
    """Returns the tensors by variable, in TensorFlow's own layout; strings are left out.

    Args:
        trust: without effect; the format cannot hold code.

    Raises:
        InputError: a damaged index, a missing or short data file, more
            tensors than the data files have bytes.
    """
    try:
        entries = read_index(file)
    except (Damaged, struct.error, IndexError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} is not a readable TensorFlow index ({error}); copy it again"
        ) from error
    shards = data_files(file)
    left = max(HARMLESS_BYTES, sum(shard.stat().st_size for shard in shards))
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype != STRING:
            tensors[name] = _tensor(file, shards, name, entry)
            left -= entry.size
            if left < 0:  # a short index that names one tensor many times could fill the memory
                raise InputError(f"{file} has more tensors than its data files; copy them again")
    return tensors, None


def read_index(file: Path) -> dict[str, Entry]:
    """Returns the place of each variable's bytes.

    Raises:
        Damaged: something is not as the format says.
    """
    data = file.read_bytes()
    if len(data) < FOOTER_BYTES or data[-8:] != MAGIC:
        raise Damaged("no footer (truncated?)")
    footer = data[-FOOTER_BYTES:]
    _, at = _handle(footer, 0)
    (offset, size), _ = _handle(footer, at)
    entries = {}
    for _, value in _block(data, offset, size):
        (offset, size), _ = _handle(value, 0)
        for key, proto in _block(data, offset, size):
            if key and key[:1] != b"\0":  # the empty key holds the header, a zero begins slices
                entries[key.decode()] = _entry(proto)
    return entries


def _tensor(file: Path, shards: list[Path], name: str, entry: Entry) -> Tensor:
    if entry.dtype not in DTYPES or entry.sliced:
        what = "is in slices" if entry.sliced else f"has TensorFlow's type {entry.dtype}"
        raise InputError(f"{file}: {name} {what}, which is not supported")
    dtype = np.dtype(DTYPES[entry.dtype])
    if math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise InputError(
            f"{file}: {name} has {entry.size} bytes for the shape {entry.shape}; copy it again"
        )
    if entry.shard >= len(shards):
        raise InputError(
            f"{file}: {file.stem}.data-{entry.shard:05d}-of-... is not in the same folder; copy it "
            "there"
        )
    shard = shards[entry.shard]
    if entry.offset + entry.size > shard.stat().st_size:
        raise InputError(f"{shard} is truncated: {name} is beyond its end; copy it again")
    with shard.open("rb") as stream:
        stream.seek(entry.offset)
        array = np.frombuffer(bytearray(stream.read(entry.size)), dtype=dtype)
    try:
        array = array.reshape(entry.shape)
    except ValueError as error:  # an empty tensor of a length or a rank that numpy does not have
        raise InputError(f"{file}: {name} cannot have its shape: {error}") from None
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if entry.dtype == BFLOAT16 else tensor


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the (key, value) pairs of one block; each key shares a prefix with the one before
    it.
    """
    end = offset + size
    if size < 4 or end + 5 > len(data):
        raise Damaged(f"a block of {size} bytes at {offset} in a file of {len(data)}")
    if data[end] != 0:
        raise Damaged("its blocks are compressed")
    if _masked_crc32c(data[offset : end + 1]) != struct.unpack_from("<I", data, end + 1)[0]:
        raise Damaged(f"the checksum of the block at {offset} is wrong")
    restarts = struct.unpack_from("<I", data, end - 4)[0]
    stop = end - 4 * (restarts + 1)
    at, key = offset, b""
    while at < stop:
        shared, at = _varint(data, at)
        own, at = _varint(data, at)
        length, at = _varint(data, at)
        key = key[:shared] + data[at : at + own]
        at += own
        yield key, data[at : at + length]
        at += length


def _entry(proto: bytes) -> Entry:
    fields = dict(_fields(proto))
    dimensions = [value for number, value in _fields(_bytes(fields.get(2, b""))) if number == 2]
    return Entry(
        dtype=_number(fields.get(1, 0)),
        shape=tuple(_number(dict(_fields(_bytes(one))).get(1, 0)) for one in dimensions),
        shard=_number(fields.get(3, 0)),
        offset=_number(fields.get(4, 0)),
        size=_number(fields.get(5, 0)),
        sliced=7 in fields,
    )


def _number(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise Damaged("a protocol buffer with bytes for a number")
    return value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise Damaged("a protocol buffer with a number for bytes")
    return value


def _fields(proto: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields a protocol buffer's (field number, value): varints, fixed32 and byte strings."""
    at = 0
    value: int | bytes
    while at < len(proto):
        tag, at = _varint(proto, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(proto, at)
        elif kind == 2:
            length, at = _varint(proto, at)
            value, at = proto[at : at + length], at + length
        elif kind == 5:
            value, at = struct.unpack_from("<I", proto, at)[0], at + 4
        else:
            raise Damaged(f"a protocol buffer with wire type {kind}")
        yield tag >> 3, value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise Damaged("a number of more than 10 bytes")


@lru_cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # Castagnoli, reflected
        table.append(byte)
    return tuple(table)


def _masked_crc32c(data: bytes) -> int:
    """Returns LevelDB's checksum: CRC-32C, rotated and shifted by a constant."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
