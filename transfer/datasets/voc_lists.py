"""The lists and folders of VOC's layout: which images a list names, and where their files are.

A list has one name a line, as people and tools write them: with spaces, quotes, suffixes, a byte
order mark, folders, either kind of slash, or a flag behind the name. They are turned into the names
that the folder's files have, relative to it and without suffix.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.common.lookup import folded
from pretrain.data.folders import IMAGE_SUFFIXES, is_hidden
from transfer.datasets.voc_xml import MARK

XML_SUFFIX = ".xml"
PARTS = ("JPEGImages/", "Annotations/")  # a list may name files from the root on
FLAGGED = (
    "lines have a number after the name, which is not used: each image is read with all its "
    "objects"
)
MORE_WORDS = "lines have more words after the name, which are not used"
COMMENT = "lines begin with # and name no file; they were taken as comments"
TWICE = "images are listed more than once"


class FileIndex:
    """Finds the files of a folder, at any depth, by their names without suffix.

    Args:
        folder: hidden and system names in it are passed over.
        suffixes: in lower case, of the files that count, in any case; of several files with one
            name the first suffix is taken.
    """

    def __init__(self, folder: Path, suffixes: Sequence[str]) -> None:
        self.folder = folder
        ranks = {suffix: rank for rank, suffix in enumerate(suffixes)}
        best: dict[str, tuple[int, str]] = {}
        for path in _files(folder):
            name, suffix = os.path.splitext(path)
            rank = ranks.get(suffix.lower())
            if rank is not None and (rank, path) < best.get(name, (len(ranks), "")):
                best[name] = rank, path
        self._paths = {name: path for name, (_, path) in best.items()}
        self._by_fold: dict[str, str] | None = None
        self._by_base: dict[str, list[str]] = {}
        for name in self._paths:
            self._by_base.setdefault(name.rpartition("/")[2], []).append(name)

    def __iter__(self) -> Iterator[str]:
        """All names, sorted."""
        return iter(sorted(self._paths))

    def find(self, name: str) -> str | None:
        """Returns the name that a list means: itself, or the only file of that name in a
        subfolder.
        """
        if name in self._paths:
            return name
        below = self._by_base.get(name, ())
        return below[0] if len(below) == 1 else None

    def like(self, name: str) -> str | None:
        """Returns the name that differs in letter case, form of accents or URL encoding only."""
        if self._by_fold is None:
            self._by_fold = {folded(known): known for known in self._paths}
        return self._by_fold.get(folded(unquote(name)))

    def path(self, name: str) -> Path | None:
        """Returns the file of a name; None if there is none."""
        found = self.find(name)
        return None if found is None else self.folder / self._paths[found]


def read_list(
    listing: Path, find: Callable[[str], str | None], findings: Findings
) -> tuple[list[str], list[str]]:
    """Returns the names that a list file means, in its order, and the lines that no file goes with.

    Args:
        find: gives the name of the file that a name means, None if there is none.
        findings: takes flags and names that are listed more than once.

    Raises InputError for a list that is missing, or names nothing.
    """
    names: dict[str, None] = {}
    missing = []
    for line in _lines(listing):
        found, note = _resolve(line, find)
        if found is None and line.startswith("#"):
            findings.note(COMMENT, line)
            continue
        if found is None:
            missing.append(_plain(line))
            continue
        if note:
            findings.note(note, line)
        if found in names:
            findings.refuse(TWICE, found, "remove the repeated lines")
        names[found] = None
    if not names and not missing:
        raise InputError(f"{listing} does not list any image; write one name on each line")
    return list(names), missing


def _lines(listing: Path) -> list[str]:
    content = listing.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes lists
        text = content.decode("utf-16", errors="replace")
    else:  # bytes that are not UTF-8 stay what they are in the files' names
        text = content.decode("utf-8", errors="surrogateescape")
    lines = (line.strip().strip(MARK).strip() for line in text.splitlines())
    return [line for line in lines if line]


def _resolve(line: str, find: Callable[[str], str | None]) -> tuple[str | None, str]:
    """Returns the name that a line means, None without a file, and what is to be said about the
    line.
    """
    words, last = line.split(), line.rsplit(maxsplit=1)
    texts = [(line, "")]
    if len(words) > 1 and re.fullmatch(r"[+-]?\d+", last[-1]):
        texts += [(last[0], FLAGGED), (words[0], MORE_WORDS)]
    elif len(words) > 1 and _is_file_name(words[0]) and find(line) is None:
        # An image and its mask, as in DeepLab's lists: the line's last name is the mask's.
        texts.insert(0, (words[0], MORE_WORDS))
    elif len(words) > 1:
        texts.append((words[0], MORE_WORDS))
    for text, note in texts:
        found = next((name for form in _forms(text) if (name := find(form)) is not None), None)
        if found is not None:
            return found, note
    return None, ""


def _forms(text: str) -> Iterator[str]:
    """Yields the names that a text may mean, the most literal one first."""
    yield text
    plain = _plain(text)
    yield plain
    for part in PARTS:
        if part in plain:
            yield plain.rpartition(part)[2]
    yield plain.rpartition("/")[2]


def _plain(text: str) -> str:
    """Without quotes and suffix, with forward slashes."""
    if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    text = text.replace("\\", "/").removeprefix("./")
    return os.path.splitext(text)[0] if _is_file_name(text) else text


def _is_file_name(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in (*IMAGE_SUFFIXES, XML_SUFFIX)


def _files(folder: Path) -> Iterator[str]:
    """Yields paths below the folder, with forward slashes; each real folder once."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = sorted(name for name in folders if real not in seen and not is_hidden(name))
        if real in seen:
            continue
        seen.add(real)
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in files if not is_hidden(name))
