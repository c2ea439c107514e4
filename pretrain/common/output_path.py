"""The path that --output names: refused in one line if no folder can be there, or if it is not the
one that the user meant."""

from __future__ import annotations

import os
from pathlib import Path

from pretrain.common.errors import InputError


def check_output(path: str | Path) -> Path:
    """Returns the path of an output folder, which may be missing. Nothing is made.

    Raises:
        InputError: the text is empty or has a NUL, the shell has left a ~ in it, or the path or a
            folder above it is a file or a link to nothing.
    """
    text = os.fspath(path)
    if not text.strip():
        raise InputError('--output is empty; give a folder ("." is the current one)')
    if "\0" in text:
        raise InputError(f"--output {text!r} has a NUL character; give another --output")
    meant = os.path.expanduser(text)
    if meant != text:
        raise InputError(f"--output {text}: ~ was not replaced by the shell; give {meant}")
    folder = Path(text)
    for place in (folder, *folder.parents):
        if os.path.lexists(place) and not os.path.isdir(place):
            _refuse(place, folder)
    return folder


def _refuse(place: Path, folder: Path) -> None:
    if os.path.islink(place) and not os.path.exists(place):
        raise InputError(
            f"--output {folder}: {place} is a link to {os.readlink(place)}, which is not there; "
            "make that folder, or give another --output"
        )
    if place != folder:
        raise InputError(f"--output {folder}: {place} is a file; give another --output")
    raise InputError(f"--output {folder} is a file; give a folder")
