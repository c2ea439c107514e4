"""The exception that means "the input is wrong": tools print its line and exit with 2."""

from __future__ import annotations

import errno

FULL = (errno.ENOSPC, errno.EDQUOT)


class InputError(Exception):
    """Bad input. The message is one clear line that names the file or key, and the remedy."""


def disk_full(error: BaseException | None) -> OSError | None:
    """The error of a full disk that is `error` or led to it; None: another cause.

    torch.save ends in a RuntimeError of its own when the file cannot take all bytes.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return error
        error = error.__cause__ or error.__context__
    return None
