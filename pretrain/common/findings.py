"""Collects what is unusual or wrong in one input, and reports each kind once, with its count.

A reader notes kinds of findings, each with the place where it was seen. All kinds that the user
must correct become one InputError. What was changed or left out becomes one warning. Each kind is
shown with its count and its first three places, so a user learns of all problems in one attempt.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from pretrain.common.errors import MOST_OF_MESSAGE, InputError
from pretrain.common.printable import printable

logger = logging.getLogger(__name__)

SHOWN = 3
MOST_OF_PLACE = 400  # characters


def first_names(names: Sequence[str]) -> str:
    """Returns the first names of a list in one phrase, which says if there are more."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


class Findings:
    """Collects the findings of one file or folder.

    Args:
        source: the name of the file or folder in messages.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._noted: dict[str, _Places] = {}
        self._refused: dict[tuple[str, str], _Places] = {}

    def note(self, kind: str, where: str, count: int = 1) -> None:
        """Counts something that is legal, or that was changed in memory; `report` warns of it.

        Args:
            kind: what was found and what was done about it, in the plural:
                "boxes reach beyond their image and are clipped to it".
            where: the place, such as "annotation 17" or a file's name.
            count: how many there are at this place; 0 notes nothing.
        """
        if count:
            self._noted.setdefault(kind, _Places()).add(where, count)

    def refuse(self, kind: str, where: str, remedy: str = "", count: int = 1) -> None:
        """Counts something that must be corrected before the input can be used; see `note`.

        Args:
            kind: what is wrong, in the plural: "objects have no mask".
            where: the place and the value found there: "annotation 17 (width null)".
            remedy: what the user can do, as an imperative: "correct the file".
            count: how many there are at this place; 0 refuses nothing.
        """
        if count:
            self._refused.setdefault((kind, remedy), _Places()).add(where, count)

    @property
    def refused(self) -> bool:
        """Returns whether something was found that must be corrected."""
        return bool(self._refused)

    def report(self) -> None:
        """Raises InputError, in one line, for everything that was refused; otherwise warns of what
        was noted.

        The same warning is logged once in a process, even if a command reads its input several
        times.
        """
        if self._refused:
            texts = [
                f"{found.text(kind)}{f'; {remedy}' if remedy else ''}"
                for (kind, remedy), found in self._refused.items()
            ]
            raise InputError(f"{self._source}: {'. Also: '.join(texts)}")
        if self._noted:
            texts = [found.text(kind) for kind, found in self._noted.items()]
            warn_once(f"{self._source}: {'; '.join(texts)}")


class _Places:
    """How often one kind was found, and the first places."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[str] = []

    def add(self, where: str, count: int) -> None:
        self._count += count
        if len(self._first) < SHOWN:
            self._first.append(printable(where, MOST_OF_PLACE))

    def text(self, kind: str) -> str:
        """Returns the kind with its count and first places."""
        label = ", first: " if self._count > len(self._first) else ": "
        return f"{kind} ({self._count}{label}{', '.join(self._first)})"


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning only once in a process, because a command reads its input to check it, and
    again to train on it."""
    logger.warning("%s", printable(message, 2 * MOST_OF_MESSAGE))
