"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, waiting: str = "") -> Iterator[None]:
    """Waits until no other process holds FOLDER/.lock, then holds it. A killed one lets go of it.

    Args:
        waiting: logged where another holds it.
    """
    with open(folder / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                logger.info(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
