"""A weights file that a process finds, reads and hashes only once.

A run looks at its weights several times: are they a backbone or a complete detector, do they fit
the config, and what does each trial start from? A file has hundreds of megabytes, often on a
network's disk. So a run makes one `OpenedWeights` and passes it to all of these instead of a path.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from transfer.checkpoints.files import RANDOM, Source
from transfer.checkpoints.readers.raw import RawFile, open_file
from transfer.checkpoints.sources import resolve


class OpenedWeights:
    """Is a source of weights and, from the first time that they are asked for, its file and
    content.

    If it is printed, it shows the source as the user gave it. If it is pickled, only the source is
    stored, and the other process reads the file itself. Tensors that are made from the content may
    share its memory: do not write into them.

    Args:
        source: see `sources`; or "random".
        trust: reads pickles without restrictions, which can run code from the file.
    """

    def __init__(self, source: str | Path, trust: bool = False) -> None:
        self.source, self.trust = str(source), trust

    def __str__(self) -> str:
        return self.source

    def __reduce__(self) -> tuple[type[OpenedWeights], tuple[str, bool]]:
        return type(self), (self.source, self.trust)

    @property
    def is_random(self) -> bool:
        """Returns whether the source is the untrained backbone, which has no file."""
        return self.source == RANDOM

    @cached_property
    def place(self) -> Source:
        """Returns the local file, downloaded if the source is remote, and the facts next to it.

        Raises:
            InputError: see `sources.resolve`.
        """
        return resolve(self.source)

    @property
    def file(self) -> Path:
        """Returns the local file; see `place`."""
        return self.place.file

    @cached_property
    def raw(self) -> RawFile:
        """Returns the file's content.

        Raises:
            InputError: see `open_file`.
        """
        return open_file(self.file, self.trust)

    def close(self) -> None:
        """Frees the content's memory; the file is read again if the content is needed again."""
        vars(self).pop("raw", None)


def as_opened(source: str | Path | OpenedWeights, trust: bool = False) -> OpenedWeights:
    """Returns the source; if it is opened already, with the trust with which it was opened."""
    return source if isinstance(source, OpenedWeights) else OpenedWeights(source, trust)
