"""Checkpoint files: they are written atomically, the one before is kept, and they are read with
`weights_only=True`. Also the state of random-number generators."""

from __future__ import annotations

import json
import logging
import os
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from pretrain.common.distributed import barrier, is_main
from pretrain.common.errors import InputError, disk_failure
from pretrain.common.safe_json import parse_json
from pretrain.common.temporaries import make_temporary
from pretrain.common.torch_files import check_torch_file

Value = TypeVar("Value")

logger = logging.getLogger(__name__)

FORMAT = "mscn-checkpoint"
VERSION = 1


def atomic_write(
    path: str | Path, writer: Callable[[BinaryIO], object], *, keep_previous: bool = False
) -> None:
    """Writes a file through a temporary one next to it, so that no reader ever sees half of it.

    Args:
        keep_previous: keep the present file as `previous_of(path)`. At every instant at least one
            of the two names is a complete file.

    Raises an OSError that names the file if the disk is full or fails, and what interrupted the
    writer otherwise (Ctrl-C, a loader's process that died), even if the writer raises a different
    error then: torch.save, which is left early, raises a RuntimeError about its unfinished zip.
    """
    path = Path(path)
    handle, name = _begin(path)
    try:
        with os.fdopen(handle, "wb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp's 0600 would hide results from a colleague
        if keep_previous and path.is_file():
            _keep(path, previous_of(path))
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        refused = disk_failure(error)
        if refused is not None:
            raise OSError(refused.errno, refused.strerror, str(path)) from error
        if isinstance(error, RuntimeError) and error.__context__ and not error.__cause__:
            raise error.__context__ from None
        raise


def _begin(path: Path) -> tuple[int, str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return make_temporary(path)
    except OSError as error:  # name the requested file, not the temporary one
        raise OSError(error.errno, error.strerror, str(path)) from error


def previous_of(path: Path) -> Path:
    """Returns the name of a file's previous version: checkpoint.prev.pth for checkpoint.pth."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def _keep(path: Path, previous: Path) -> None:
    """Gives a file a second name (a hard link), so that it keeps its first name until the new
    content takes that name. On a file system without hard links, the file is renamed."""
    handle, name = make_temporary(previous)
    os.close(handle)
    os.unlink(name)
    try:
        os.link(path, name)
    except OSError:
        os.replace(path, previous)
    else:
        os.replace(name, previous)
        # If a kill left two names of one file, rename would remove neither of them
        Path(name).unlink(missing_ok=True)


def read_newest(paths: Sequence[Path], read: Callable[[Path], Value]) -> tuple[Value, Path]:
    """Returns the content and the path of the first file that can be read.

    Every process must call this. A damaged file is not lost: it is renamed with the suffix
    .damaged, and a log line says so.

    Args:
        paths: the newest first.

    Raises:
        InputError: none can be read; the message is the newest one's.
    """
    failed: dict[Path, InputError] = {}
    for path in paths:
        try:
            content = read(path)
        except InputError as error:
            failed[path] = error
            continue
        barrier()  # all processes have read the files
        if is_main():
            for damaged, why in failed.items():
                aside = damaged.with_name(f"{damaged.name}.damaged")
                os.replace(damaged, aside)
                logger.warning("%s: it is now %s, and %s is used", why, aside.name, path.name)
        return content, path
    newest, *others = failed
    also = f" ({', '.join(path.name for path in others)} cannot be read either)" if others else ""
    raise InputError(f"{failed[newest]}{also}; or start again with another --output")


def atomic_write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    atomic_write(path, lambda file: file.write(text.encode("utf-8")))


def save_checkpoint(
    state: Mapping[str, Any], path: str | Path, *, keep_previous: bool = False
) -> None:
    """Writes a checkpoint of tensors and builtins atomically, with format and version added.

    Args:
        keep_previous: see `atomic_write`.
    """
    content = {"format": FORMAT, "version": VERSION, **state}
    atomic_write(path, lambda file: torch.save(content, file), keep_previous=keep_previous)


def load_torch_file(path: str | Path) -> Any:
    """Reads any file of torch.save with `weights_only=True`, onto the CPU.

    Raises:
        InputError: the file is missing, empty, truncated or damaged (see `check_torch_file`), or it
            contains more than tensors and builtins.
    """
    path = Path(path)
    check_whole(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds of errors for a bad file
        reason = str(error).strip().split("\n")[0][:160]
        raise InputError(
            f"{path} is not a readable checkpoint (truncated, or a different format: {reason}); "
            "copy it again"
        ) from error


def check_whole(path: Path) -> None:
    """Raises InputError if `path` is not a file or is empty, or if a file of torch.save is damaged
    (see `check_torch_file`)."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; give a checkpoint file")
    if not path.is_file():
        raise InputError(f"there is no checkpoint at {path}; check the path")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes); copy or download it again")
    check_torch_file(path)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of this project.

    Raises:
        InputError: the file is unreadable (see `load_torch_file`), is not from this project, or was
            written by a newer version.
    """
    return checked_checkpoint(load_torch_file(path), path)


def load_newest_checkpoint(path: Path) -> tuple[dict[str, Any], Path] | None:
    """Returns the checkpoint from which a run continues, and its file. The file is `path`, or the
    one before it if `path` is missing or damaged. None if there is neither.

    Raises InputError as `load_checkpoint` does.
    """
    present = [file for file in (path, previous_of(path)) if file.is_file()]
    if not present:
        return None
    content, file = read_newest(present, load_torch_file)
    return checked_checkpoint(content, file), file


def checked_checkpoint(content: Any, path: str | Path) -> dict[str, Any]:
    """Returns the content read from `path`. Raises InputError if it is not our checkpoint."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a pretraining checkpoint of this project; give the file of a run"
        )
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path} is damaged: it has no format version; take an earlier one")
    if version > VERSION:
        raise InputError(f"{path} has format version {version}, newer than {VERSION}; update mscn")
    return content


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Writes backbone weights as a flat torchvision state_dict, with facts in its `_metadata`.

    Args:
        tensors: the tensors, by torchvision's names.
        facts: `preprocess` and provenance as JSON values; `read_facts` reads them back.
    """
    state = OrderedDict(tensors)
    # torch's own state dicts have this attribute, and its files keep it
    setattr(state, "_metadata", OrderedDict(transfer=json.dumps(facts, sort_keys=True)))
    atomic_write(path, lambda file: torch.save(state, file))


def read_facts(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns the facts that `save_weights` stored with the tensors, or None for a plain
    state_dict.
    """
    text = getattr(state, "_metadata", {}).get("transfer")
    return parse_json(text) if isinstance(text, str) else None


def rng_state() -> dict[str, Any]:
    """Returns the state of Python's, numpy's and torch's global generators, as tensors and
    builtins.
    """
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state()
    assert isinstance(legacy, tuple)  # numpy returns a mapping only on request
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restores the result of `rng_state`; CUDA's only if the number of GPUs is the same."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
