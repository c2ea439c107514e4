"""Opens files from unknown sources only if they are regular files of a limited size.

A FIFO never ends, and opening a device may have any effect. A sparse file of 40 GB uses no space on
a disk, but all of the memory. None of them is read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MEGABYTE = 1 << 20


def read_regular(path: str | Path, most_bytes: int) -> bytes:
    """Returns the content of a regular file.

    Raises:
        OSError: the file is missing, is not a regular file, or has more than `most_bytes`. Its
            `strerror` says which of these it is.
    """
    check_regular(path, most_bytes)
    # If the path has become a FIFO meanwhile, O_NONBLOCK does not wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise _too_large(path, most_bytes)
    return content


def check_regular(path: str | Path, most_bytes: int) -> None:
    """Raises OSError like `read_regular`, without opening the file."""
    try:
        found = os.stat(path)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, f"not a path ({error})", os.fspath(path)) from None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    if found.st_size > most_bytes:
        raise _too_large(path, most_bytes)


def _too_large(path: str | Path, most_bytes: int) -> OSError:
    text = f"larger than {most_bytes / MEGABYTE:g} MB, the limit for such a file"
    return OSError(errno.EFBIG, text, os.fspath(path))
