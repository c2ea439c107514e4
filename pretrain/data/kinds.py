"""Finds images of refused kinds among many: paths in, one InputError for all of them.

Only headers are read (some 0.1 ms per local file), by several threads: on a network's disk it is
the waiting that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pretrain.common.findings import SHOWN, Findings
from pretrain.common.logs import progress
from pretrain.data.decode import Header, read_header, refused_detail

THREADS = 8
QUIET_SECONDS = 2.0  # a shorter scan shows no progress bar
# The formats whose pixels may be 32-bit integers or floats
SCALELESS = (".tif", ".tiff", ".pfm")

Item = TypeVar("Item")
Found = TypeVar("Found")


def check_kinds(source: str, paths: Sequence[str]) -> None:
    """Raises InputError for images whose pixels carry no scale: their number and the first ones.

    Only files of the formats that can hold such pixels are opened, so that millions of JPEGs cost
    nothing. Files that are no image are left to the reader.

    Args:
        source: how the message names the set of images.
    """
    findings = Findings(source)
    kinds = KindCheck(findings)
    suspects = [path for path in paths if path.lower().endswith(SCALELESS)]
    for path, header in zip(suspects, each(header_or_fault, suspects, "check images")):
        if isinstance(header, Header):
            kinds.add(path, header)
    findings.report()


class KindCheck:
    """Adds the images of refused kinds to findings, one after the other."""

    def __init__(self, findings: Findings) -> None:
        self._findings, self._described = findings, 0

    def add(self, path: str, header: Header) -> bool:
        """Whether images of the header's kind are read."""
        if header.refused is None:
            return True
        kind, remedy = header.refused
        where = path
        if self._described < SHOWN:  # the range of values needs the pixels
            where = f"{path} ({refused_detail(path)})"
            self._described += 1
        self._findings.refuse(kind, where, remedy)
        return False


def each(work: Callable[[Item], Found], items: Sequence[Item], title: str) -> Iterable[Found]:
    """What `work` returns of each item, in order, by several threads, with a progress bar."""
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(work, items)
        yield from progress(found, desc=title, total=len(items), leave=False, delay=QUIET_SECONDS)


def header_or_fault(path: str) -> Header | str:
    """What a file says of its image, or the text of what makes it unreadable."""
    try:
        return read_header(path)
    except OSError as error:
        return " ".join(str(error).split())
