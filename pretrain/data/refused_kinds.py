"""Finds images of refused kinds among many: paths in, one InputError for all of them.

Several threads read only the headers (some 0.1 ms per local file), because on a network file system
most of the time is waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pretrain.common.findings import SHOWN, Findings
from pretrain.common.logs import progress
from pretrain.data.decode import Header, largest_of_16_bits, read_header, refused_detail

THREADS = 8
QUIET_SECONDS = 2.0  # a shorter scan shows no progress bar
JPEG = (".jpg", ".JPEG", ".jpeg", ".JPG")  # usual spellings, skipped at once
# The formats whose pixels may be 32-bit integers or floats
SCALELESS = (".tif", ".tiff", ".pfm")

# The formats that may hold 16 bits
DEEP = (".tif", ".tiff", ".png", ".pgm", ".jp2")
DARK, DARK_SAMPLES = 4096, 8  # values of 12 bits are below DARK; number of files that are read
IS_DARK = (
    "all sampled 16-bit images have values of 12 bits or less and are nearly black: multiply their "
    "values, so that white is near 65535"
)

Item = TypeVar("Item")
Found = TypeVar("Found")


def check_kinds(source: str, paths: Sequence[str]) -> None:
    """Raises InputError for images whose pixels have no scale, with their number and the first
    ones.

    It opens only files of formats that can have such pixels, so millions of JPEGs cost nothing.
    Files that are not images are left to the reader. It warns if all of a few sampled 16-bit images
    are nearly black.

    Args:
        source: the name of the set of images in the message.
    """
    findings = Findings(source)
    kinds = KindCheck(findings)
    paths = [path for path in paths if not path.endswith(JPEG)]
    suspects = [path for path in paths if path.lower().endswith(SCALELESS)]
    for path, header in zip(suspects, each(header_or_fault, suspects, "check images")):
        if isinstance(header, Header):
            kinds.add(path, header)
    note_dark(findings, paths)
    findings.report()


def note_dark(findings: Findings, paths: Sequence[str]) -> None:
    """Adds a note if the 16-bit images of a set are nearly black. It reads a few of them."""
    deep = [path for path in paths if path.lower().endswith(DEEP)]
    sample = deep[:: max(1, len(deep) // DARK_SAMPLES)][:DARK_SAMPLES]
    largest = {path: largest_of_16_bits(path) for path in sample}
    values = [value for value in largest.values() if value is not None]
    if values and max(values) < DARK:
        for path, value in largest.items():
            if value is not None:
                findings.note(IS_DARK, f"{path} up to {value}")


class KindCheck:
    """Adds images of refused kinds to findings, one after the other."""

    def __init__(self, findings: Findings) -> None:
        self._findings, self._described = findings, 0

    def add(self, path: str, header: Header) -> bool:
        """Adds the image if its kind is refused; returns whether its kind is read."""
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
    """Yields the results of `work` for each item, in order, by several threads, with a progress
    bar.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(work, items)
        yield from progress(found, desc=title, total=len(items), leave=False, delay=QUIET_SECONDS)


def header_or_fault(path: str) -> Header | str:
    """Returns the header of a file, or the error's text if the file is unreadable."""
    try:
        return read_header(path)
    except OSError as error:
        return " ".join(str(error).split())
