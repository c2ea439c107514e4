"""What the objects of a detection set add to the fingerprint of its data, in a canonical form.

The form does not depend on the order of the annotations in a file, nor on their ids and those of
the images: objects are sorted within their image by their own content. n images, m objects.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as masks_of_coco

from pretrain.data.fingerprint import by_name, encoded, mixed
from transfer.datasets.coordinates import as_hundredths

PIECE = 2**20  # coordinates that are summed at once: 8 MiB
# A random odd number, and that with which its product is 1 modulo 2 ** 64
FACTOR = np.uint64(0xD6E8FEB86659FD93)
INVERSE = np.uint64(pow(int(FACTOR), -1, 2**64))


class ObjectLabels:
    """Describes the objects of n images; see `pretrain.data.fingerprint.Annotations`.

    Args:
        image: int64 (m,), each object's image, ascending.
        boxes: float64 (m, 4), pixels.
        category: int64 (m,), places in `names`.
        marks: int64 (m,), a number for what else is said of an object, such as crowd.
        masks: int64 (m,), see `polygon_checksums`.
        names: names of the classes; their order does not count.
    """

    def __init__(
        self,
        images: int,
        image: np.ndarray,
        boxes: np.ndarray,
        category: np.ndarray,
        marks: np.ndarray,
        masks: np.ndarray,
        names: Sequence[str],
    ) -> None:
        self.objects, self.classes = len(image), len(names)
        self._names, places = by_name(category, names)
        self._boxes = boxes + 0.0  # -0.0 is 0.0
        self._labels = np.stack([places, marks], axis=1).astype("<i8")
        self._masks = masks.astype("<i8")
        self._image = image
        self._counts = np.bincount(image, minlength=images)
        # Numbers that order the objects of an image: by boxes, then labels, then masks, so that
        # a mended label or mask leaves the order of boxes alone
        self._first = mixed(self._boxes.view(np.int64))
        half, labels = np.uint64(32), mixed(self._labels)
        self._then = labels >> half << half | mixed(self._masks[:, None]) >> half

    def keys(self) -> np.ndarray:
        """See `Annotations.keys`."""
        found = np.zeros(len(self._counts), np.uint64)
        np.add.at(found, self._image, mixed(np.stack([self._first, self._then], axis=1)))
        return found

    def parts(self, order: np.ndarray) -> dict[str, Sequence[bytes]]:
        """See `Annotations.parts`."""
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        rows = np.lexsort((self._then, self._first, place[self._image]))
        counts = self._counts[order].astype("<i8").tobytes()
        labels = [encoded(self._names), counts, self._labels[rows].tobytes()]
        parts: dict[str, Sequence[bytes]] = {
            "labels": labels,
            "boxes": [self._boxes[rows].astype("<f8").tobytes()],
        }
        if self._masks.any():
            parts["masks"] = [self._masks[rows].tobytes()]
        return parts


def polygon_checksums(
    spans: np.ndarray,
    ends: np.ndarray,
    hundredths: Callable[[int, int], np.ndarray],
    rles: Iterable[tuple[int, Mapping[str, Any]]],
) -> np.ndarray:
    """Returns a number for the mask of each of m objects, int64 (m,); 0 without a mask.

    It depends on the order of points and polygons, and not on more than two decimals of a pixel.

    Args:
        spans: int64 (m, 2), each object's first polygon and the one behind its last.
        ends: where each polygon ends among the numbers, behind a leading 0.
        hundredths: takes begin and end; returns the numbers between, in hundredths of a pixel.
        rles: objects, and their run lengths.
    """
    begins, stops = ends[spans[:, 0]], ends[spans[:, 1]]
    lengths = np.diff(ends)
    found = _sums(hundredths, begins, stops)
    found ^= _sums(lambda begin, end: lengths[begin:end], spans[:, 0], spans[:, 1]) * FACTOR
    checksums = found.view(np.int64)
    for row, rle in rles:
        checksums[row] = _of_run_lengths(rle)
    return checksums


def mask_checksums(
    polygons: Sequence[Sequence[Sequence[float]] | None], rles: Sequence[Mapping[str, Any] | None]
) -> np.ndarray:
    """Returns `polygon_checksums` of m objects with their polygons and run lengths, int64 (m,)."""
    behind = np.cumsum([0, *(len(own or ()) for own in polygons)])
    flat = [polygon for own in polygons for polygon in own or ()]
    ends = np.cumsum([0, *map(len, flat)])
    numbers = np.array([number for polygon in flat for number in polygon], np.float64)
    return polygon_checksums(
        np.stack([behind[:-1], behind[1:]], axis=1),
        ends,
        lambda begin, end: as_hundredths(numbers[begin:end]),
        ((row, rle) for row, rle in enumerate(rles) if rle is not None),
    )


def keypoint_checksums(keypoints: Sequence[Sequence[float] | None]) -> np.ndarray:
    """Returns a number for the keypoints of each of m objects, int64 (m,); 0 without any. Two
    decimals of a pixel count.
    """
    found = np.zeros(len(keypoints), np.int64)
    for row, numbers in enumerate(keypoints):
        if numbers:
            found[row] = zlib.crc32(as_hundredths(np.array(numbers)).astype("<i8").tobytes())
    return found


def _sums(
    numbers: Callable[[int, int], np.ndarray], begins: np.ndarray, stops: np.ndarray
) -> np.ndarray:
    """Returns uint64 (m,): the sum of number i times FACTOR ** (i + 1), of each span from its begin
    on.
    """
    found = np.zeros(len(begins), np.uint64)
    some = np.flatnonzero(stops > begins)
    some = some[np.argsort(begins[some], kind="stable")]
    longest = PIECE + int((stops - begins).max(initial=0))
    powers = np.full(longest, FACTOR).cumprod()
    inverses = np.append(np.uint64(1), np.full(longest, INVERSE).cumprod())
    for rows in _pieces(some, begins):
        first, last = int(begins[rows[0]]), int(stops[rows].max())
        terms = np.zeros(last - first + 1, np.uint64)  # a span may end behind the last number
        terms[:-1] = numbers(first, last).astype(np.int64).view(np.uint64)
        terms[:-1] *= powers[: last - first]
        spans = np.stack([begins[rows], stops[rows]], axis=1) - first
        sums = np.add.reduceat(terms, spans.ravel())[::2]
        found[rows] = sums * inverses[spans[:, 0]]  # as if each span began with the piece
    return found


def _pieces(rows: np.ndarray, begins: np.ndarray) -> list[np.ndarray]:
    """Returns the rows, which are ordered by where they begin, in pieces of about PIECE numbers."""
    if not len(rows):
        return []
    piece = (begins[rows] - begins[rows[0]]) // PIECE
    return np.split(rows, np.flatnonzero(np.diff(piece)) + 1)


def _of_run_lengths(rle: Mapping[str, Any]) -> int:
    size, counts = rle["size"], rle["counts"]
    if isinstance(counts, (list, tuple)):  # the same mask may be kept in either form
        counts = masks_of_coco.frPyObjects({"size": size, "counts": counts}, *size)["counts"]
    text = counts.encode() if isinstance(counts, str) else bytes(counts)
    return zlib.crc32(text, zlib.crc32(np.array(size, "<i8").tobytes()))
