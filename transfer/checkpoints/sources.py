"""Where weights come from: what a user names in, a local file that is worth opening out.

A source is a file, `https://...`, `hf-hub:org/name[@revision][:file]`,
`torchvision:resnet50/IMAGENET1K_V2`, `timm:resnet50.a1_in1k` or, of Detectron2's model zoo,
`detectron2://ImageNetPretrained/MSRA/R-50.pkl`; the last five are remote.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import InputError
from transfer.checkpoints.readers.known import what_folder_is

if TYPE_CHECKING:
    from pretrain.data.preprocess import Preprocess

SUFFIXES = (".pkl", ".pth", ".safetensors")  # of outputs: Detectron2, torchvision, safetensors
REMOTE = ("https:", "http:", "hf-hub:", "torchvision:", "timm:", "detectron2:")


@dataclass(frozen=True)
class Source:
    """Attributes: file: local; preprocess and known: what the place says beside the file."""

    file: Path
    preprocess: Preprocess | None = None
    known: dict[str, Any] = field(default_factory=dict)


def is_remote(source: str | Path) -> bool:
    """Whether a source is a name on a network rather than a path."""
    return str(source).startswith(REMOTE)


def check_source(source: str | Path) -> None:
    """Raises InputError for a path that cannot be read; remote sources are taken as they are."""
    if not is_remote(source):
        local_file(source)


def resolve(source: str | Path) -> Source:
    """The local file of a source, downloaded once if it is remote.

    Raises:
        InputError: missing, a folder, 0 bytes, or not to be had.
    """
    if not is_remote(source):
        return Source(local_file(source))
    from transfer.checkpoints.remote import fetch

    found = fetch(str(source))
    local_file(found.file)
    return found


def source_stem(source: str | Path) -> str:
    """The file's stem, `resnet50_IMAGENET1K_V2`, `org_name`, `ImageNetPretrained_MSRA_R-50`."""
    text = str(source)
    if text.startswith(("http:", "https:")):
        text = text.split("#")[0].split("?")[0]
    elif text.startswith("detectron2:"):
        return text.partition("://")[2].rpartition(".")[0].replace("/", "_")
    elif is_remote(text):
        return text.partition(":")[2].replace("/", "_").replace(":", "_").replace("@", "_")
    return Path(text).stem


def local_file(path: str | Path) -> Path:
    """Returns the path of an existing, non-empty file.

    A TensorFlow checkpoint is also meant by its prefix (`model.ckpt-250228`) and its data file.

    Raises:
        InputError: missing, a folder, or 0 bytes.
    """
    file = Path(path)
    index = file.with_name(f"{file.name.partition('.data-')[0]}.index") if file.name else file
    if (not file.exists() or ".data-" in file.name) and index.is_file():
        return local_file(index)
    if file.is_dir():
        raise InputError(f"{file} is {what_folder_is(file)}")
    if not file.is_file():
        raise InputError(f"no weights file at {file}")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty (0 bytes); copy or download it again")
    return file


def file_sha256(*paths: Path) -> str:
    """sha256 of the files' bytes one after another, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
