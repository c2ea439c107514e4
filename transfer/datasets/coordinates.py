"""Many coordinates in pixels, in half of the memory if they have two decimals, as COCO's have.

They are then kept as whole hundredths of a pixel. What does not come back as the same float64 keeps
all of them as float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SCALE = 100


class Coordinates:
    """Is a sequence of coordinates that can be cut into parts; it never changes.

    Args:
        pieces: int32 hundredths or float64, see `packed`.
    """

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        if any(piece.dtype == np.float64 for piece in pieces):
            pieces = [as_floats(piece) for piece in pieces]
        # One piece is not copied: it may be pages of a file that several processes share.
        self._values = np.concatenate(pieces) if len(pieces) > 1 else (*pieces, np.zeros(0))[0]

    def __len__(self) -> int:
        return len(self._values)

    @property
    def values(self) -> np.ndarray:
        """Returns all values, as they are packed: `Coordinates([values])` is the same sequence."""
        return self._values

    def part(self, begin: int, end: int) -> list[float]:
        """Returns those from `begin` to `end`, as floats."""
        found: list[float] = as_floats(self._values[begin:end]).tolist()
        return found

    def hundredths(self, begin: int, end: int) -> np.ndarray:
        """Returns those from `begin` to `end`, see `as_hundredths`."""
        return as_hundredths(self._values[begin:end])

    def beyond(self, limit: float) -> np.ndarray:
        """Returns places of those that are not between -limit and limit, limit itself included."""
        scaled = limit * (1 if self._values.dtype == np.float64 else _SCALE)
        if not len(self) or -scaled < self._values.min() <= self._values.max() < scaled:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self._values <= -scaled) | (self._values >= scaled))

    def followed_by(self, more: Sequence[float]) -> Coordinates:
        """Returns these, and more."""
        if not more:
            return self
        return Coordinates([self._values, packed(np.array(more, np.float64))])


def packed(values: np.ndarray) -> np.ndarray:
    """Returns float64 values as int32 hundredths, if that keeps the values, otherwise unchanged."""
    if len(values) and np.abs(values).max() >= 2**31 / _SCALE - 1:
        return values.copy()
    hundredths = np.rint(values * _SCALE).astype(np.int32)
    return hundredths if np.array_equal(as_floats(hundredths), values) else values.copy()


def as_hundredths(values: np.ndarray) -> np.ndarray:
    """Returns coordinates, as float64 or in hundredths already, as whole hundredths of a pixel,
    rounded.
    """
    if values.dtype != np.float64:
        return values
    return np.rint(np.clip(values * _SCALE, -(2.0**62), 2.0**62)).astype(np.int64)


def as_floats(values: np.ndarray) -> np.ndarray:
    """Returns what `packed` gave, as float64."""
    return values if values.dtype == np.float64 else values / _SCALE
