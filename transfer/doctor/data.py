"""Counts of the data that a config names, and a few images read whole: data sets in, rows out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from pretrain.data.listed import part_of_whole
from transfer.doctor.rows import FAIL, OK, WARN, Rows

SAMPLES = 8  # images read from each split, evenly spaced


def check_split(
    rows: Rows,
    name: str,
    count: int,
    classes: int,
    read: Callable[[int], Image.Image],
    extra: str = "",
) -> None:
    """Adds one row: the counts beside those of the whole set, and whether samples can be read.

    Args:
        name: as in DATASETS; count, classes: of images and classes found.
        read: decodes image i.
        extra: more about it, such as the number of objects.
    """
    text = ", ".join(
        filter(None, [f"{count} images", f"{classes} classes" if classes else "", extra])
    )
    wrong = part_of_whole(name, count, classes)
    unreadable = _unreadable(read, count)
    if unreadable:
        rows.add(f"data {name}", FAIL, f"{text}; unreadable: {unreadable}")
    elif wrong:
        rows.add(f"data {name}", WARN, f"{text}; {wrong}")
    else:
        tried = min(SAMPLES, count)
        rows.add(f"data {name}", OK, f"{text}; {tried} of {tried} samples read")


def evenly(count: int) -> Sequence[int]:
    """Up to SAMPLES numbers below `count`, first and last among them."""
    if count <= SAMPLES:
        return range(count)
    return [round(i * (count - 1) / (SAMPLES - 1)) for i in range(SAMPLES)]


def _unreadable(read: Callable[[int], Image.Image], count: int) -> str:
    for index in evenly(count):
        try:
            read(index)
        except OSError as error:
            return str(error)
    return ""
