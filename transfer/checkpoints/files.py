"""Local files of weights, and what the names of sources say: nothing is downloaded or parsed here.

A source is a path or a remote name; `sources` turns it into a local file.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.common.errors import UNLOCK, InputError
from pretrain.common.lookup import names_in, near_matches
from pretrain.common.printable import printable
from transfer.checkpoints.readers.not_weights import what_folder_is

if TYPE_CHECKING:
    from pretrain.data.preprocess import Preprocess

SUFFIXES = (".pkl", ".pth", ".safetensors")  # outputs: for Detectron2, torchvision, safetensors
IN_FOLDERS = ("model.safetensors", "pytorch_model.bin")  # as `save_pretrained` names them
SHARD = re.compile(r"-\d{5}-of-(\d{5})\.(?:safetensors|bin)$")
ONE_FILE = "save it as one: save_pretrained(..., max_shard_size='100GB')"
RANDOM = "random"  # the name of an untrained backbone, which has no file
REMOTE = ("https:", "http:", "hf-hub:", "torchvision:", "timm:", "detectron2:", "package:")


@dataclass(frozen=True)
class Source:
    """Names a local `file`; the other fields are what the place says next to it."""

    file: Path
    preprocess: Preprocess | None = None
    known: dict[str, Any] = field(default_factory=dict)
    architecture: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None


def is_remote(source: str | Path) -> bool:
    """Returns whether a source is a name on a network, not a path."""
    return str(source).startswith(REMOTE)


def source_stem(source: str | Path) -> str:
    """Returns the file's stem, `resnet50_IMAGENET1K_V2`, `org_name`,
    `ImageNetPretrained_MSRA_R-50`.

    A model of transformers or timm has its folder's name: all of their files have the same name.
    """
    text = str(source)
    if text.startswith(("http:", "https:")):
        text = text.split("#")[0].split("?")[0]
    elif text.startswith("detectron2:"):
        return text.partition("://")[2].rpartition(".")[0].replace("/", "_")
    elif is_remote(text):
        return text.partition(":")[2].replace("/", "_").replace(":", "_").replace("@", "_")
    path = Path(text)
    if path.is_dir() or path.is_file() and path.name in IN_FOLDERS:
        return (path if path.is_dir() else path.parent).resolve().name
    return path.stem


def local_file(path: str | Path) -> Path:
    """Returns the path of an existing, non-empty file.

    A TensorFlow checkpoint may also be named by its prefix (`model.ckpt-250228`) or its data file,
    and a model of transformers or timm by its folder.

    Raises:
        InputError: missing, not readable for this user, a folder without such a model, or 0 bytes.
    """
    file = Path(path)
    if reason := _refusal(file):  # such as of a name of 5,000 letters
        raise InputError(f"no weights file at {printable(file)}: {reason}; give another path")
    index = file.with_name(f"{file.name.partition('.data-')[0]}.index") if file.name else file
    if (not file.exists() or ".data-" in file.name) and index.is_file():
        return local_file(index)
    if file.is_dir():
        _check_readable(file)
        return local_file(_file_of(file))
    if not file.is_file():
        if file.exists():
            raise InputError(f"{file} is a pipe or a device; give a file")
        raise InputError(f"{_what_is_missing(file)}{_instead_of(file)}")
    part = SHARD.search(file.name)
    if part and int(part[1]) > 1:
        raise InputError(f"{file} is one of {int(part[1])} files of a model; {ONE_FILE}")
    if file.stat().st_size == 0:
        raise InputError(f"{file} is empty (0 bytes); copy or download it again")
    _check_readable(file)
    return file


def _refusal(file: Path) -> str:
    """Returns why the system does not look at a path; "" if it does, or if nothing is there."""
    try:
        os.stat(file)
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


def _check_readable(path: Path) -> None:
    """Raises InputError, as for other bad input, if this user may not read a file or list a folder.

    So it is said before anything is written, and not by the reader.
    """
    if path.is_dir():
        readable = os.access(path, os.R_OK | os.X_OK)
    else:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            readable = True
        except PermissionError:
            readable = False
    if not readable:
        raise InputError(f"{path}: this user may not read it; {UNLOCK}")


def _what_is_missing(file: Path) -> str:
    if file.is_symlink():
        return f"{printable(file)} is a link to {printable(os.readlink(file))}, which is missing"
    return f"no weights file at {printable(file)}"


def _instead_of(file: Path) -> str:
    """Returns what may have been meant: a file of a similar name, or a name without its prefix."""
    if not file.parent.is_dir():
        return f": {printable(file.parent)} is not a folder"
    suffixes = {*SUFFIXES, file.suffix}
    names = [name for name in names_in(file.parent, suffixes) if (file.parent / name).is_file()]
    if near := near_matches(file.name, names):
        return printable(near)
    return "; names of published weights begin with torchvision:, timm: or hf-hub:"


def _file_of(folder: Path) -> Path:
    """Returns the weights file in a folder that `save_pretrained` wrote."""
    found = [folder / name for name in IN_FOLDERS if (folder / name).is_file()]
    if found:
        return found[0]
    shards = [name for name in IN_FOLDERS if (folder / f"{name}.index.json").is_file()]
    if shards:
        raise InputError(
            f"{folder} holds a model in several files ({shards[0]}.index.json); {ONE_FILE}"
        )
    raise InputError(f"{folder} is {what_folder_is(folder)}")


def file_sha256(*paths: Path) -> str:
    """Returns the sha256 of the files' concatenated bytes, read in pieces of 4 MiB."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
