"""One suite at a time in a folder, also while commands of a killed one still run there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.common.errors import InputError

try:
    import fcntl
except ImportError:  # not a Unix: nothing is locked
    fcntl = None


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds `folder`/suite.lock; the commands started meanwhile inherit it, and so hold it too.

    Raises InputError where somebody else holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "suite.lock"
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{folder} is in use by another run_suite.py, or by commands that a killed one "
                    "left running; wait for them or end them"
                ) from None
            except OSError:  # a file system without locks
                pass
            os.set_inheritable(file.fileno(), True)
        yield
