"""Temporary files next to the files that they become: their names, and the removal of those that a
killed process left.

A file is written under a hidden, temporary name and renamed when it is complete. Meanwhile its
writer holds the kernel's lock (flock) on it, which a killed process loses. So nobody removes a file
that is being written, even in a folder that several commands share.
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

# What follows ".NAME.": eight characters and _. Earlier versions wrote no _; then a digit must be
# among the letters, to tell it from a user's word as in .config.yaml.original. The third form is
# the number of a process that wrote progress.json.
DRAWN = r"[a-z0-9_]{8}_|(?=[a-z_]*\d)[a-z0-9_]{8}|(?<=\.progress\.json\.)\d+"
SOME_FILE = r".+\.[A-Za-z0-9]+"
PART = ".part"  # follows a name without suffix, such as last_checkpoint


def make_temporary(path: Path) -> tuple[int, str]:
    """Makes an empty, hidden file next to `path`. Returns its locked descriptor and its name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix="_")
    _lock(handle)
    return handle, name


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Yields an empty, hidden folder next to `path`, which is removed at the end with all its
    content.

    An error of the system about a file in it names `path`, which is the file that was asked for.
    """
    with _named(path, ""):
        name = tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path), suffix="_")
    handle = os.open(name, os.O_RDONLY)
    try:
        _lock(handle)
        with _named(path, name):
            yield Path(name)
    finally:
        os.close(handle)
        shutil.rmtree(name, ignore_errors=True)


@contextmanager
def _named(path: Path, temporary: str) -> Iterator[None]:
    """Names `path` in an error about `temporary` or a file below it, or about no file."""
    try:
        yield
    except OSError as error:
        if error.errno is None or not str(error.filename or temporary).startswith(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sweep(folder: Path, name: str = "") -> list[Path]:
    """Removes half-written files of killed writers in a folder and below it; returns their paths.
    A file that cannot be removed stays, which does no harm.

    Args:
        name: remove only the temporaries of this file, directly in a folder that others also use.
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
    for place, folders, files in os.walk(folder):  # it does not follow links
        yield from (Path(place) / name for name in (*folders, *files) if name.startswith("."))


def _lock(handle: int) -> None:
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_left(path: Path) -> bool:
    """Returns whether a file or a folder exists and nobody is writing it."""
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
    except OSError:  # a file system without locks; the caller holds the folder's lock
        pass
    finally:
        os.close(handle)
    return True
