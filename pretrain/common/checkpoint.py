"""Checkpoint files: written atomically, read with `weights_only=True`, plus random-number state."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from pretrain.common.errors import InputError, disk_full
from pretrain.common.torch_files import check_torch_file

FORMAT = "mscn-checkpoint"
VERSION = 1


def atomic_write(path: str | Path, writer: Callable[[BinaryIO], object]) -> None:
    """Writes a file through a temporary one beside it, so that no reader ever sees half of it.

    Raises OSError that names the file where the disk is full, whatever the writer raises then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp's 0600 would hide results from a colleague
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        full = disk_full(error)
        if full is not None:
            raise OSError(full.errno, full.strerror, str(path)) from error
        raise


def atomic_write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    atomic_write(path, lambda file: file.write(text.encode("utf-8")))


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Writes a checkpoint of tensors and builtins atomically, with format and version added."""
    content = {"format": FORMAT, "version": VERSION, **state}
    atomic_write(path, lambda file: torch.save(content, file))


def load_torch_file(path: str | Path) -> Any:
    """Reads any file of torch.save with `weights_only=True`, onto the CPU.

    Raises:
        InputError: missing, empty, truncated, damaged (see `check_torch_file`), or holding more
            than tensors and builtins.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a checkpoint file")
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy or download it again")
    check_torch_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for one cause: the file
        reason = str(error).strip().split("\n")[0][:160]
        raise InputError(
            f"{path} is not a readable checkpoint (truncated, or another format): {reason}"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of this project.

    Raises:
        InputError: unreadable (see `load_torch_file`), of another project, or of a newer version.
    """
    content = load_torch_file(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a pretraining checkpoint of this project")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path} is damaged: it states no format version; take an earlier one")
    if version > VERSION:
        raise InputError(f"{path} has format version {version}, newer than {VERSION}; update mscn")
    return content


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes backbone weights as a flat torchvision state_dict; facts travel in its `_metadata`.

    Args:
        tensors: torchvision's names.
        facts: JSON-able `preprocess` and provenance, read back by `read_facts`.
    """
    state = OrderedDict(tensors)
    # The attribute of torch's own state dicts, which its files keep
    setattr(state, "_metadata", OrderedDict(transfer=json.dumps(facts, sort_keys=True)))
    atomic_write(path, lambda file: torch.save(state, file))


def read_facts(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The facts that `save_weights` put beside the tensors, or None for a plain state_dict."""
    text = getattr(state, "_metadata", {}).get("transfer")
    return json.loads(text) if isinstance(text, str) else None


def rng_state() -> dict[str, Any]:
    """State of Python's, numpy's and torch's global generators as tensors and builtins."""
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state()
    assert isinstance(legacy, tuple)  # numpy gives a mapping only if asked for one
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores what `rng_state` returned; CUDA generators only where the number of GPUs agrees."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
