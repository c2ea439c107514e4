"""Safetensors files: tensors, and the facts in the metadata key `transfer`."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.refusal_messages import is_cut


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
        what = "is truncated" if cut else "is not a readable .safetensors file"
        raise InputError(f"{file} {what}: {reason}; copy or download it again") from error
