"""Where weights come from: a path in, a local file that is worth opening out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pretrain.common.errors import InputError

# The names of formats.FORMATS, here so that a command line is checked before torch is loaded.
SOURCES = ("mscn", "moco_v1", "moco_v2", "torchvision", "detectron2")
SUFFIXES = (".pkl", ".pth", ".safetensors")  # of outputs: Detectron2, torchvision, safetensors


def local_file(path: str | Path) -> Path:
    """Returns the path of an existing, non-empty file.

    Raises:
        InputError: missing, a folder, or 0 bytes.
    """
    file = Path(path)
    if file.is_dir():
        raise InputError(f"{file} is a folder; give the weights file inside it")
    if not file.is_file():
        raise InputError(f"no weights file at {file}")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty (0 bytes); copy or download it again")
    return file


def file_sha256(path: Path) -> str:
    """sha256 of the file's bytes, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()
