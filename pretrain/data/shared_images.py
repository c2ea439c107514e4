"""Which images are both in a training set and in a test set: two origins in, a count out.

Equal images are found by their content; their names do not matter. Only files of equal size are
read: first their beginnings, then the complete files if the beginnings are equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from pretrain.data.origins import GONE, Files, Origin, Part, Pixels

# At most MOST_IMAGES images are compared by size, and MOST_READ files are read, which takes some
# seconds on a local disk. A thorough search (tools/doctor.py) allows THOROUGH times as many.
MOST_IMAGES, MOST_READ, THOROUGH = 200_000, 20_000, 10
BEGINNING, WHOLE = 2**14, 2**31  # bytes
SHOWN = 2


@dataclass(frozen=True)
class SharedImages:
    """Describes test images that are also training images.

    Attributes:
        count: the number of shared images.
        images: the number of images of the test set.
        first: for some shared images, the name in the test set and the name in the training set.
    """

    count: int
    images: int
    first: tuple[tuple[str, str], ...] = ()

    def text(self, train: str, test: str) -> str:
        """Returns a sentence about the two sets, which are called by these names."""
        if not self.count:
            return f"no image of {test} is in {train}"
        pairs = ", ".join(f"{one} is {other}" for one, other in self.first)
        return (
            f"{self.count} of the {self.images} images of {test} are also in {train} (equal "
            f"content, first: {pairs}): results on them say nothing about new images; remove them "
            "from one of the two sets"
        )


def not_compared(train: str, test: str) -> str:
    """Returns the message if `find_shared` does not compare two sets."""
    return (
        f"{test} was not searched for images of {train}: there are too many images or files of "
        f"equal size (tools/doctor.py searches {THOROUGH} times as many as a run)"
    )


def find_shared(train: Origin, test: Origin, *, thorough: bool = False) -> SharedImages | None:
    """Returns the images of `test` that are in `train`; None if that takes too long (see
    MOST_IMAGES).

    Args:
        thorough: take longer, see THOROUGH.
    """
    factor = THOROUGH if thorough else 1
    if _kind(train) != _kind(test):
        return SharedImages(0, len(test))
    if len(train) + len(test) > MOST_IMAGES * factor:
        return None
    ours, theirs = np.arange(len(train)), np.arange(len(test))
    steps: tuple[Callable[[Origin, np.ndarray], np.ndarray], ...] = (
        _sizes,
        partial(_hashes, most=BEGINNING),
        partial(_hashes, most=WHOLE),
    )
    for number, step in enumerate(steps):
        if number and len(ours) + len(theirs) > MOST_READ * factor:
            return None
        one, two = step(train, ours), step(test, theirs)
        common = np.intersect1d(one, two)
        common = common[common != GONE]
        kept = np.isin(one, common)
        ours, one, theirs = ours[kept], one[kept], theirs[np.isin(two, common)]
    return SharedImages(len(theirs), len(test), _pairs(train, test, ours, one, theirs[:SHOWN]))


def _sizes(origin: Origin, rows: np.ndarray) -> np.ndarray:
    return origin.stamps(rows)[:, 0]


def _hashes(origin: Origin, rows: np.ndarray, most: int) -> np.ndarray:
    return origin.checksums(rows, most)


def _pairs(
    train: Origin, test: Origin, ours: np.ndarray, hashes: np.ndarray, theirs: np.ndarray
) -> tuple[tuple[str, str], ...]:
    """Returns names of the test images `theirs`, each with the name of the first equal image of
    `ours`.

    Args:
        hashes: the hashes of `ours`.
    """
    if not len(theirs):
        return ()
    here, there = train.names(), test.names()
    wanted = test.checksums(theirs, WHOLE).tolist()
    places = [int(ours[np.argmax(hashes == value)]) for value in wanted]
    return tuple(
        (os.fsdecode(there[row]), os.fsdecode(here[place]))
        for row, place in zip(theirs.tolist(), places)
    )


def _kind(origin: Origin) -> type[Origin]:
    """Returns whether the images are files or pixels. Only images of the same kind can be
    compared.
    """
    while isinstance(origin, Part):
        origin = origin.whole
    return Pixels if isinstance(origin, Pixels) else Files
