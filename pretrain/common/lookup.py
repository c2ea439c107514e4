"""Names in, table entries out, with the same clear error for every table of the project."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pretrain.common.errors import InputError

Entry = TypeVar("Entry")


def near_matches(name: str, known: Iterable[str]) -> str:
    """Returns " (did you mean 'a' or 'b'?)" for the known names nearest to `name`, or "".

    Names that differ in letter case, spaces around them or the form of their accents only are the
    nearest. Those that differ in the last alone look equal, so it is said.
    """
    listed = list(known)
    same = [one for one in listed if _composed(one) == _composed(name)]
    if same:
        return f" (did you mean {same[0]!r}, which writes its accents in a different form?)"
    like = [one for one in listed if folded(one).strip() == folded(name).strip()]
    return did_you_mean(like[:2] or difflib.get_close_matches(name, listed, n=2, cutoff=0.6))


def folded(name: str) -> str:
    """Returns the name without letter case, and with one form of accents: macOS writes them apart
    (NFD)."""
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def did_you_mean(names: Sequence[str]) -> str:
    """Returns " (did you mean 'a' or 'b'?)", or "" without names."""
    return f" (did you mean {' or '.join(map(repr, names))}?)" if names else ""


def names_in(folder: Path, suffixes: Collection[str], most: int = 1000) -> list[str]:
    """Returns the names in a folder that have one of the suffixes; none if it cannot be read."""
    try:
        names = (entry.name for entry in folder.iterdir() if entry.suffix in suffixes)
        return list(islice(names, most))
    except OSError:
        return []


def find(name: str, table: Mapping[str, Entry], kind: str, where: str = "") -> Entry:
    """Returns `table[name]`.

    Args:
        kind: the kind of the table's entries, for the message ("method", "backbone").
        where: the file or key that contains the name, for the message.

    Raises:
        InputError: the name is unknown or missing; the message lists the known and nearest ones.
    """
    if isinstance(name, str) and name in table:
        return table[name]
    place = f" in {where}" if where else ""
    if not isinstance(name, str):  # such as an empty entry of a YAML list
        raise InputError(f"{name!r} is not the name of a {kind}{place}; write one as text")
    known = ", ".join(sorted(table))
    raise InputError(f"unknown {kind} {name!r}{place}; known: {known}{near_matches(name, table)}")
