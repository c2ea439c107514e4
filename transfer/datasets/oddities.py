"""Counts what is odd but legal in annotations, and says so in one line per file.

In: kinds of oddities with the place of each. Out: one warning that counts them and names the first.
"""

from __future__ import annotations

import functools
import logging

logger = logging.getLogger(__name__)

# Detectron2 filters these in training and keeps them among the objects to be found: so do we.
AREALESS = "boxes without area are not trained on"


class Oddities:
    """What is odd in one file or folder."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Notes `count` oddities of a kind at a place; 0 is none."""
        if count:
            before, first = self._found.get(kind, (0, where))
            self._found[kind] = (before + count, first)

    def warn(self) -> None:
        """Writes the warning, if anything is odd."""
        if self._found:
            texts = [f"{n} {kind} (first: {place})" for kind, (n, place) in self._found.items()]
            _warn_once(f"{self._source}: {'; '.join(texts)}")


@functools.cache
def _warn_once(message: str) -> None:
    # A command reads its data to check them, and again in the process that trains: mostly the same.
    logger.warning(message)
