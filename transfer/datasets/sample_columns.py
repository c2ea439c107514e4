"""The samples of a large data set in columns: an image and its objects are made when asked for.

As Python objects, COCO's 860,000 objects take gigabytes, and each process that reads them copies
their pages as it counts references. Arrays are shared by all forked processes. n images, m objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from transfer.datasets.coordinates import Coordinates
from transfer.datasets.fingerprint import polygon_checksums
from transfer.datasets.samples import Instance, Objects, Sample


@dataclass(frozen=True)
class ImageColumns:
    """Holds n images; `names` are their files' names in UTF-8, one after the other."""

    names: bytes
    name_ends: np.ndarray  # int64 (n,)
    ids: Sequence[int | str] | np.ndarray  # n
    heights: np.ndarray  # int64 (n,), pixels
    widths: np.ndarray  # int64 (n,), pixels

    @staticmethod
    def pack(
        names: Sequence[str], ids: Sequence[int | str], heights: list[int], widths: list[int]
    ) -> ImageColumns:
        """Packs n names, ids and sizes."""
        encoded = [name.encode("utf-8", "surrogatepass") for name in names]
        numbers = all(isinstance(key, int) and abs(key) < 2**62 for key in ids)
        return ImageColumns(
            b"".join(encoded),
            np.cumsum([len(name) for name in encoded]),
            np.array(ids, np.int64) if numbers else tuple(ids),
            np.array(heights, np.int64),
            np.array(widths, np.int64),
        )

    def sample(self, row: int, instances: tuple[Instance, ...]) -> Sample:
        """Returns an image, with these objects."""
        begin = self.name_ends[row - 1] if row else 0
        name = self.names[begin : self.name_ends[row]].decode("utf-8", "surrogatepass")
        key = self.ids[row]
        key = key if isinstance(key, (int, str)) else int(key)
        return Sample(name, key, int(self.heights[row]), int(self.widths[row]), instances)


@dataclass(frozen=True)
class ObjectColumns:
    """Holds m objects, image by image."""

    ends: np.ndarray  # int64 (n,), where each image's objects end
    boxes: np.ndarray  # float64 (m, 4), XYXY in pixels
    categories: np.ndarray  # int64 (m,)
    crowd: np.ndarray  # bool (m,)
    polygons: np.ndarray  # int64 (m, 2), the first polygon and the one behind the last
    polygon_ends: np.ndarray  # int64, where each polygon ends in `numbers`, behind a leading 0
    numbers: Coordinates  # x and y of all polygons
    rles: dict[int, dict[str, Any]]  # run lengths, by object

    def instance(self, row: int) -> Instance:
        """Returns an object."""
        first, last = self.polygons[row].tolist()
        ends = self.polygon_ends[first : last + 1].tolist()
        polygons = [self.numbers.part(begin, end) for begin, end in zip(ends, ends[1:])]
        x1, y1, x2, y2 = self.boxes[row].tolist()
        return Instance(
            (x1, y1, x2, y2),
            int(self.categories[row]),
            bool(self.crowd[row]),
            polygons=polygons if last > first else None,
            rle=self.rles.get(row),
        )


class SampleColumns(Sequence[Sample]):
    """Gives the images `rows` of the columns as Samples."""

    def __init__(
        self, images: ImageColumns, objects: ObjectColumns, rows: np.ndarray | None = None
    ) -> None:
        self._images, self._objects = images, objects
        self._rows = np.arange(len(images.heights)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> SampleColumns: ...

    def __getitem__(self, index: int | slice) -> Sample | SampleColumns:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        row = int(self._rows[index])
        begin, end = self._span(row)
        objects = (self._objects.instance(place) for place in range(begin, end))
        return self._images.sample(row, tuple(objects))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(Sample.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def take(self, rows: np.ndarray) -> SampleColumns:
        """Returns the images of these rows, in this order; the columns are shared."""
        return SampleColumns(self._images, self._objects, self._rows[rows])

    def images(self) -> Iterator[Sample]:
        """Returns all images, without their objects."""
        return (self._images.sample(int(row), ()) for row in self._rows)

    def wide(self) -> np.ndarray:
        """Returns bool (n,): whether each image is wider than it is high."""
        return (self._images.widths > self._images.heights)[self._rows]

    def objects(self) -> Objects:
        """Returns what can be counted of all objects."""
        found = self._objects
        image, rows = self._object_rows()
        return Objects(
            image,
            found.boxes[rows],
            found.categories[rows],
            found.crowd[rows],
            np.zeros(len(rows), bool),
            (found.polygons[:, 1] > found.polygons[:, 0])[rows],
            self._has_run_lengths()[rows],
        )

    def mask_checksums(self) -> np.ndarray:
        """Returns int64: what `polygon_checksums` gives of the objects."""
        found = self._objects
        rows = self._object_rows()[1]
        has = self._has_run_lengths()[rows]
        return polygon_checksums(
            found.polygons[rows],
            found.polygon_ends,
            found.numbers.hundredths,
            ((place, found.rles[int(rows[place])]) for place in np.flatnonzero(has).tolist()),
        )

    def file_names(self) -> list[str]:
        """Returns the file names of all images."""
        names, ends = self._images.names, self._images.name_ends
        begins = np.concatenate([[0], ends[:-1]])[self._rows].tolist()
        cuts = zip(begins, ends[self._rows].tolist())
        return [names[begin:end].decode("utf-8", "surrogatepass") for begin, end in cuts]

    def _object_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns int64 (m,) each: the place of each object's image, and the object's row."""
        begins = np.concatenate([[0], self._objects.ends[:-1]])[self._rows]
        counts = self._objects.ends[self._rows] - begins
        image = np.repeat(np.arange(len(self)), counts)
        within = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
        return image, np.repeat(begins, counts) + within

    def _has_run_lengths(self) -> np.ndarray:
        """Returns whether each row of objects has run lengths, bool."""
        has = np.zeros(len(self._objects.boxes), bool)
        has[list(self._objects.rles)] = True
        return has

    def _span(self, row: int) -> tuple[int, int]:
        return int(self._objects.ends[row - 1]) if row else 0, int(self._objects.ends[row])


def joined(parts: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """Returns the samples of several sets, one after the other."""
    if len(parts) == 1:
        return parts[0]
    return tuple(sample for part in parts for sample in part)
