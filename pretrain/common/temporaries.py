"""Temporary files beside the files that they become: their names, and the removal of what a killed
process left.

A file is written under a hidden name of its own and renamed when it is complete. Its writer holds
the kernel's lock (flock) on it meanwhile, which a killed process loses: so nobody removes a file
that is being written, also not in a folder that several commands share.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What follows ".NAME.": eight signs and _; as earlier versions named it, without the _ (a digit
# among the letters tells it from a word of a user, as in .config.yaml.original); and the number of
# a process that wrote progress.json.
DRAWN = r"[a-z0-9_]{8}_|(?=[a-z_]*\d)[a-z0-9_]{8}|(?<=\.progress\.json\.)\d+"
SOME_FILE = r".+\.[A-Za-z0-9]+"
PART = ".part"  # follows a name without suffix, such as last_checkpoint


def make_temporary(path: Path) -> tuple[int, str]:
    """An empty, hidden file beside `path`: its descriptor, which holds its lock, and its name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix="_")
    _lock(handle)
    return handle, name


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty, hidden folder beside `path`, which goes with all that is still in it."""
    name = tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix="_")
    handle = os.open(name, os.O_RDONLY)
    try:
        _lock(handle)
        yield Path(name)
    finally:
        os.close(handle)
        shutil.rmtree(name, ignore_errors=True)


def sweep(folder: Path, name: str = "") -> list[Path]:
    """Removes what killed writers left half written in a folder and in those below it; returns the
    paths. What cannot be removed stays: it is in nobody's way.

    Args:
        name: only of the file of this name in the folder itself, where others write as well.
    """
    wanted = re.escape(name) + f"({re.escape(PART)})?" if name else SOME_FILE
    pattern = re.compile(rf"\.({wanted})\.({DRAWN})")
    hidden = folder.glob(".*") if name else _hidden_below(folder)
    found = [path for path in hidden if pattern.fullmatch(path.name) and _is_left(path)]
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()
    return [path for path in found if not path.exists()]


def _prefix(path: Path) -> str:
    return f".{path.name}{'' if path.suffix else PART}."


def _hidden_below(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):  # which follows no links
        yield from (Path(place) / name for name in (*folders, *files) if name.startswith("."))


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_left(path: Path) -> bool:
    """Whether a file or a folder is there, and nobody writes it."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return False
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: who sweeps holds the folder's own lock
        pass
    finally:
        os.close(handle)
    return True
