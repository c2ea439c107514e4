"""A terminal that is closed while a command writes to it.

`disown`, `setsid` and the time until SIGHUP arrives leave a command without its terminal. Each line
that it prints would then be an error (EIO), which would end the training.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def outlives_terminal() -> Iterator[None]:
    """Drops what is printed inside the block to a terminal that is gone."""
    before = {name: getattr(sys, name) for name in ("stdout", "stderr")}
    for name, stream in before.items():
        if (safe := _safe(stream)) is not None:
            setattr(sys, name, safe)
    try:
        yield
    finally:
        for name, stream in before.items():
            getattr(sys, name).flush()
            setattr(sys, name, stream)


class _Terminal(io.FileIO):
    """A terminal, or the null device from the first write that finds the terminal gone."""

    def write(self, data: object, /) -> int:  # type: ignore[override]
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return super().write(data)  # type: ignore[arg-type]


def _safe(stream: TextIO) -> TextIO | None:
    """The same stream through `_Terminal`; None if it is not a terminal's."""
    if not isinstance(stream, io.TextIOWrapper) or not stream.isatty():
        return None
    stream.flush()
    out = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(
        out, encoding=stream.encoding, errors=stream.errors, line_buffering=True
    )
