"""Adds rows about the data that a config names: counts, and whether a few images can be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image

from pretrain.common.findings import SHOWN
from pretrain.data.datasets import EMPTY
from pretrain.data.decode import Header
from pretrain.data.folders import describe_left_out, loses_images
from pretrain.data.official_lists import part_of_whole
from pretrain.data.origins import evenly
from pretrain.data.refused_kinds import each, header_or_fault
from pretrain.data.shared_images import find_shared, not_compared
from transfer.doctor.rows import FAIL, OK, WARN, Rows
from transfer.trials.data import RunData

SAMPLES = 8  # images that are read from each split, evenly spaced
HEADERS = 2000  # files in a folder whose headers are read, evenly spaced


def check_split(
    rows: Rows,
    name: str,
    count: int,
    classes: int,
    read: Callable[[int], Image.Image],
    extra: str = "",
    *,
    left_out: Mapping[str, int] = EMPTY,
    files: Sequence[str] = (),
) -> None:
    """Adds one row: counts, compared with the official ones, and whether samples can be read.

    Args:
        name: name as in DATASETS; count, classes: numbers of images and classes found.
        read: decodes image i.
        extra: more text, such as the number of objects.
        left_out: see `ImageDataset`; files that may be pictures make the row a warning.
        files: files of the images; the headers of some are read.
    """
    lost = f"left out: {describe_left_out(left_out)}" if left_out else ""
    text = ", ".join(
        filter(None, [f"{count} images", f"{classes} classes" if classes else "", extra, lost])
    )
    wrong = part_of_whole(name, count, classes)
    unreadable = _bad_headers(files) or _unreadable(read, count)
    if unreadable:
        rows.add(f"data {name}", FAIL, f"{text}; unreadable: {unreadable}")
    elif wrong or loses_images(left_out):
        rows.add(f"data {name}", WARN, f"{text}; {wrong}" if wrong else text)
    else:
        tried = min(SAMPLES, count)
        rows.add(f"data {name}", OK, f"{text}; {tried} of {tried} samples read")


def check_shared(rows: Rows, data: RunData) -> None:
    """Adds the row about test images that are also training images."""
    found = find_shared(data.train.origin, data.test.origin, thorough=True)
    names = data.train.name, data.test.name
    if found is None:
        rows.add("data in both", OK, not_compared(*names))
    else:
        rows.add("data in both", WARN if found.count else OK, found.text(*names))


def _unreadable(read: Callable[[int], Image.Image], count: int) -> str:
    """Returns how many of the samples cannot be read, with the first ones; or ""."""
    found, samples = [], evenly(count, SAMPLES)
    for index in samples:
        try:
            read(index)
        except OSError as error:
            found.append(" ".join(str(error).split()))
    return _first(found, len(samples), "samples")


def _bad_headers(files: Sequence[str]) -> str:
    chosen = [files[index] for index in evenly(len(files), HEADERS)]
    found: list[str] = []
    remedies: dict[str, None] = {}
    for path, header in zip(chosen, each(header_or_fault, chosen, "read headers")):
        if not isinstance(header, Header):
            found.append(header)
        elif header.refused:
            found.append(f"{path} ({header.refused[0]})")
            remedies[header.refused[1]] = None
    return "; ".join(filter(None, [_first(found, len(chosen), "files"), *remedies]))


def _first(found: Sequence[str], count: int, what: str) -> str:
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"{len(found)} of {count} {what}: {'; '.join(found[:SHOWN])}{more}" if found else ""
