"""Opens any weights file by its first bytes, never only by its name.

A torch zip starts with `PK`, an old torch file and a Detectron2 file are pickles, a safetensors
file starts with the length of its JSON header, a TensorFlow index ends with LevelDB's magic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from pretrain.common.errors import InputError
from transfer.checkpoints.files import file_sha256, local_file
from transfer.checkpoints.readers.not_weights import what_it_is
from transfer.checkpoints.readers.pickle_file import DEPTH, read_pickle
from transfer.checkpoints.readers.refusal_messages import one_part
from transfer.checkpoints.readers.safetensors_file import read_safetensors
from transfer.checkpoints.readers.tf_bundle import data_files, is_bundle, read_tf_bundle
from transfer.checkpoints.readers.torch_file import read_torch
from transfer.checkpoints.readers.trust import trusts_files

# torch.save before 1.6: a pickle that holds only torch's magic number.
TORCH_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
HEAD_BYTES = 32
PLAIN = (Tensor, nn.Parameter, nn.Buffer)


@dataclass(frozen=True)
class RawFile:
    """Holds a file's content before any key name is interpreted.

    Attributes:
        kind: "torch", "pickle", "safetensors" or "tensorflow".
        content: the outermost mapping.
        facts: the JSON text that this project adds, None if absent.
        stamps: stamps of `path` before it was read; see `_stamps`.
    """

    path: Path
    kind: str
    content: Mapping[str, Any]
    facts: str | None
    stamps: tuple[tuple[int, int], ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Returns the sha256 of the bytes that were read (for TensorFlow, those of its index
        and data files, one after another).

        Not every caller needs it, and it takes as long as reading.

        Raises:
            InputError: the file was written since it was read.
        """
        digest = file_sha256(*_files(self.path, self.kind))
        if _stamps(self.path, self.kind) != self.stamps:
            raise InputError(
                f"{self.path} was changed while it was read; wait until it is complete, or use a "
                "copy of it"
            )
        return digest


def _files(path: Path, kind: str) -> list[Path]:
    return [path, *(data_files(path) if kind == "tensorflow" else ())]


def _stamps(path: Path, kind: str) -> tuple[tuple[int, int], ...]:
    """Returns the size in bytes and the time of the last change in ns of each file."""
    stats = [file.stat() for file in _files(path, kind)]
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)


READERS = {
    "torch": read_torch,
    "pickle": read_pickle,
    "safetensors": read_safetensors,
    "tensorflow": read_tf_bundle,
}


def open_file(path: str | Path, trust: bool = False) -> RawFile:
    """Reads a weights file into plain mappings of tensors.

    Args:
        trust: reads pickles without restrictions, which can run code from the file.

    Raises:
        InputError: missing, empty, truncated, refused, or no weights file at all.
    """
    file = local_file(path)
    kind = sniff(file)
    stamps = _stamps(file, kind)
    content, facts = READERS[kind](file, trust or trusts_files())
    try:
        content = by_name(content)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"{file} has a {type(content).__name__}, not a mapping of names to weights; save the "
            "network's state_dict: torch.save(model.state_dict(), 'weights.pth')"
        )
    return RawFile(file, kind, content, facts, stamps)


def by_name(value: Any, depth: int = 0) -> Any:
    """Returns the value with tensors in place of arrays, and with names on the way to them.

    A list that leads to a network becomes a mapping, and a number that is its key becomes a text,
    so that it is found like any other. Everything else is not changed.

    Raises:
        InputError: a nested tensor, which has no shape, so that nothing can be compared with it; or
            a tensor that is not stored by its values (see `plain_tensor`).
    """
    if isinstance(value, Tensor) and type(value) not in PLAIN:
        return plain_tensor(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return tensor_of(value)
    if isinstance(value, (list, tuple)) and _leads_to_tensors(value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or depth >= DEPTH or "param_groups" in value:
        return value
    new = {}
    for key, one in value.items():
        if isinstance(one, Tensor) and one.is_nested:
            raise InputError(f"{key!r} is a nested tensor, which has no shape; save its parts")
        inner = by_name(one, depth + 1)
        renamed = isinstance(key, int) and isinstance(inner, Mapping) and _leads_to_tensors([inner])
        new[str(key) if renamed and str(key) not in value else key] = inner
    same = new.keys() == value.keys() and all(new[key] is value[key] for key in new)
    return value if same else new


def plain_tensor(tensor: Tensor) -> Tensor:
    """Returns a tensor of a library's own class as a plain one, which has the same values.

    A DTensor (FSDP2, tensor parallelism) is complete if each process has all of its values.

    Raises:
        InputError: it is one process's part, or its class computes the values (quantisation).
    """
    kind = type(tensor).__name__
    local = getattr(tensor, "_local_tensor", None)
    if isinstance(local, Tensor):
        partial = any(place.is_partial() for place in getattr(tensor, "placements", ()))
        if partial or local.shape != tensor.shape:
            raise InputError(f"it {one_part(f'a {kind} of shape {tuple(tensor.shape)}')}")
        return local
    if is_traceable_wrapper_subclass(tensor):
        raise InputError(
            f"it holds a {kind}, whose values a library computes; save the network with plain "
            "floating-point tensors"
        )
    return tensor.as_subclass(Tensor)


def tensor_of(array: np.ndarray) -> Tensor:
    """Converts an array of numbers to a tensor, for any byte order, strides and precision."""
    kind = "f8" if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype
    native = array.astype(np.dtype(kind).newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(native, requirements=["C", "ALIGNED", "WRITEABLE"]))


def _leads_to_tensors(values: Iterable[Any], depth: int = 0) -> bool:
    """Returns whether a mapping in the values has tensors; an optimizer's state does not count."""
    for one in values:
        if isinstance(one, Mapping) and "param_groups" not in one and depth < DEPTH:
            inner = one.values()
            if any(isinstance(value, (Tensor, np.ndarray)) for value in inner):
                return True
            if _leads_to_tensors(inner, depth + 1):
                return True
    return False


def sniff(file: Path) -> str:
    """Returns the container's kind, by the first bytes.

    Raises:
        InputError: none of the known containers.
    """
    if instead := what_it_is(file):
        raise InputError(f"{file} is not a weights file but {instead}")
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04") or head.startswith(b"\x80") and TORCH_LEGACY in head:
        return "torch"
    if head[8:9] == b"{" or file.suffix == ".safetensors":
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if is_bundle(file):
        return "tensorflow"
    raise InputError(
        f"{file} is not a weights file of a known kind: torch (.pth), pickle (.pkl), .safetensors "
        "or TensorFlow (.index), or its beginning is damaged"
    )
