"""Finds images of refused kinds among many: paths in, one InputError for all of them.

Only headers are read (some 0.1 ms per local file), by several threads, because on a
network file system most of the time is waiting.
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
JPEG = (".jpg", ".JPEG", ".jpeg", ".JPG")  # as most are written: millions are passed over at once
# The formats whose pixels may be 32-bit integers or floats
SCALELESS = (".tif", ".tiff", ".pfm")

# The formats that may hold 16 bits
DEEP = (".tif", ".tiff", ".png", ".pgm", ".jp2")
DARK, DARK_SAMPLES = 4096, 8  # the largest value of 12 bits; files that are read
IS_DARK = (
    "all samples of the images of 16 bits hold values of 12 bits or less and are nearly black: "
    "multiply them, so that white is near 65535"
)

Item = TypeVar("Item")
Found = TypeVar("Found")


def check_kinds(source: str, paths: Sequence[str]) -> None:
    """Raises InputError for images whose pixels carry no scale: their number and the first ones.

    Only files of the formats that can hold such pixels are opened, so that millions of JPEGs cost
    nothing. Files that are not images are left to the reader. Warns of images of 16 bits that are
    nearly black in all of a few samples.

    Args:
        source: how the message names the set of images.
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
    """Notes sets whose images of 16 bits come out nearly black: a few of them are read."""
    deep = [path for path in paths if path.lower().endswith(DEEP)]
    sample = deep[:: max(1, len(deep) // DARK_SAMPLES)][:DARK_SAMPLES]
    largest = {path: largest_of_16_bits(path) for path in sample}
    values = [value for value in largest.values() if value is not None]
    if values and max(values) < DARK:
        for path, value in largest.items():
            if value is not None:
                findings.note(IS_DARK, f"{path} up to {value}")


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
