"""Safetensors files: tensors, and the facts in the metadata key `transfer`."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.refusal_messages import is_cut

MOST_HEADER = 100_000_000  # bytes, the format's own limit


def read_safetensors(file: Path, trust: bool = False) -> tuple[dict[str, Tensor], str | None]:
    """Returns the tensors by name, on the CPU, and the facts' JSON text.

    Args:
        trust: without effect; the format cannot hold code.

    Raises:
        InputError: truncated, or a header that does not fit the file.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}
            return tensors, (content.metadata() or {}).get("transfer")
    except SafetensorError as error:
        reason = " ".join(str(error).split())[:120]
        cut = is_cut(error)
        if cut and (longer := _extra_bytes(file)):
            raise InputError(
                f"{file} has {longer} bytes more than its header says: two files were written into "
                "one, or an older one was only partly overwritten; copy or download it again"
            ) from error
        what = "is truncated" if cut else "is not a readable .safetensors file"
        raise InputError(f"{file} {what}: {reason}; copy or download it again") from error


def _extra_bytes(file: Path) -> int:
    """Returns by how many bytes a file is longer than its header says; 0 if the header is bad."""
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(length, MOST_HEADER)))
        ends = [part["data_offsets"][1] for name, part in header.items() if name != "__metadata__"]
        return max(0, file.stat().st_size - 8 - length - max(ends, default=0))
    except (OSError, ValueError, struct.error, LookupError, TypeError, AttributeError):
        return 0
