"""One process at a time in a folder: by waiting for the other one, or by refusing to start.

The lock is the kernel's (flock): a killed process lets go of it. Where the file system has none,
nothing is locked. The library filelock unlocks explicitly, which would also take the lock from
processes that inherited it (`only_one`); here the file is only closed.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pretrain.common.errors import InputError

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, waiting: str = "") -> Iterator[None]:
    """Waits until no other process holds FOLDER/.lock, then holds it.

    Args:
        waiting: logged where another holds it.
    """
    with open(folder / ".lock", "w") as handle:
        if not _take(handle, fcntl.LOCK_NB):
            if waiting:
                logger.info(waiting)
            _take(handle)
        yield


@contextmanager
def only_one(file: Path, refusal: str) -> Iterator[None]:
    """Holds FILE, which is made with its folder; processes started meanwhile that inherit open
    files hold it too.

    Raises:
        InputError: somebody else holds it (`refusal`), or it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = file.open("w")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}") from None
    with handle:
        if not _take(handle, fcntl.LOCK_NB):
            raise InputError(refusal)
        os.set_inheritable(handle.fileno(), True)
        yield


def _take(handle: TextIO, how: int = 0) -> bool:
    """Locks the file, unless another holds it and `how` is LOCK_NB; whether it did."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
