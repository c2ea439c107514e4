"""The annotations of a COCO file in columns, which take a tenth of the memory of its records.

A usual record (whole numbers as ids, a box of four numbers, polygons of three points or more, or
none) is kept as numbers. Any other record is odd and kept as it is, so
that nothing of it is lost to the checks. The columns are a sequence of records: numbers of boxes,
areas and polygons come back as floats, and keys that nothing reads are left out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transfer.datasets.annotation_values import EXACT
from transfer.datasets.coordinates import Coordinates, as_floats, packed

PIECE = 1 << 16  # coordinates that are packed at once
# What it is made of, next to the odd records
ARRAYS = (
    *("ids", "image_ids", "category_ids", "boxes", "crowd", "areas"),
    *("polygon_ends", "object_ends", "reach"),
)
NUMBERS = "numbers"
_NUMBERS = {int, float}
_NO_CROWD, _ODD = -1, -2  # in the column of the crowd flags: no key "iscrowd", an odd record


class AnnotationColumns(Sequence[Any]):
    """Holds n records of 'annotations', packed.

    Attributes:
        ids, image_ids, category_ids: int64 (n,); 0 for an odd record.
        boxes: float64 (n, 4), x, y, width, height.
        crowd: int8 (n,), 0 or 1, -1 without the flag, -2 for an odd record.
        areas: float64 (n,), NaN without one.
        numbers: the coordinates of all polygons, one polygon after the other.
        polygon_ends: int64, where each polygon ends in `numbers`, behind a leading 0.
        object_ends: int64 (n + 1,), where each record's polygons end among all polygons, likewise.
        reach: float64 (1,), the largest of `numbers` without its sign: then nobody has to look for
            points that are far away, through all pages of a mapped file.
        odd: odd records themselves, by place, their run lengths packed.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        columns = _Columns()
        for record in records:
            columns.add(record)
        self._take(columns.arrays(), columns.odd)

    @classmethod
    def of_parts(
        cls, arrays: Mapping[str, np.ndarray], odd: Iterable[tuple[int, Any]]
    ) -> AnnotationColumns:
        """Returns those that `parts` was asked of; the arrays are not copied.

        Raises KeyError if an array is missing.
        """
        made = cls.__new__(cls)
        made._take(arrays, {place: _packed(record) for place, record in odd})
        return made

    def parts(self) -> tuple[dict[str, np.ndarray], list[tuple[int, Any]]]:
        """Returns all that they hold: arrays by name, and (place, record) of the odd records."""
        arrays = {name: getattr(self, name) for name in ARRAYS} | {NUMBERS: self.numbers.values}
        return arrays, [(place, self[place]) for place in self.odd]

    def _take(self, arrays: Mapping[str, np.ndarray], odd: dict[int, Any]) -> None:
        self.ids, self.image_ids, self.category_ids = (
            arrays[name] for name in ("ids", "image_ids", "category_ids")
        )
        self.boxes, self.crowd, self.areas = arrays["boxes"], arrays["crowd"], arrays["areas"]
        self.polygon_ends, self.object_ends = arrays["polygon_ends"], arrays["object_ends"]
        self.reach = arrays["reach"]
        self.numbers = Coordinates([arrays[NUMBERS]])
        self.odd = odd

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        place = range(len(self))[place]
        if place in self.odd:
            return _with_counts(self.odd[place], array, array.tolist)
        record: dict[str, Any] = {
            "id": int(self.ids[place]),
            "image_id": int(self.image_ids[place]),
            "category_id": int(self.category_ids[place]),
            "bbox": self.boxes[place].tolist(),
        }
        if self.crowd[place] != _NO_CROWD:
            record["iscrowd"] = int(self.crowd[place])
        if not math.isnan(self.areas[place]):
            record["area"] = float(self.areas[place])
        first, last = self.object_ends[place : place + 2]
        ends = self.polygon_ends[first : last + 1].tolist()
        if len(ends) > 1:
            record["segmentation"] = [
                self.numbers.part(begin, end) for begin, end in zip(ends, ends[1:])
            ]
        return record

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    @property
    def usual(self) -> np.ndarray:
        """Returns bool (n,), True for the records that are not odd."""
        return self.crowd != _ODD

    def values(self, key: str) -> list[Any]:
        """Returns the different values of "id", "image_id" or "category_id", as the file has
        them.
        """
        column = {"id": self.ids, "image_id": self.image_ids, "category_id": self.category_ids}[key]
        return [
            *np.unique(column[self.usual]).tolist(),
            *(record[key] for record in self.odd.values()),
        ]


def unusual(records: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Returns (place, record) of the records that have to be looked at one by one."""
    if isinstance(records, AnnotationColumns):
        return iter(records.odd.items())
    return enumerate(records)


def values(records: Sequence[Any], key: str) -> list[Any]:
    """Returns the values under a key; columns give each value once."""
    if isinstance(records, AnnotationColumns):
        return records.values(key)
    return [record[key] for record in records]


class _Columns:
    """The columns as they grow: arrays, and lists of what the last records gave."""

    def __init__(self) -> None:
        self.keys, self.boxes, self.areas = array("q"), array("d"), array("d")
        self.crowd = array("b")
        self.polygon_ends, self.object_ends = array("q", [0]), array("q", [0])
        self.odd: dict[int, Any] = {}
        # As `Coordinates` packs them; a long array grows in place, where pieces would be copied.
        self.numbers: array[int] | array[float] = array("i")
        self.reach = 0.0
        self._clear()

    def _clear(self) -> None:
        # A list takes all values of a record at once, where an array converts one after the other.
        self._keys: list[int] = []
        self._boxes: list[float] = []
        self._areas: list[float] = []
        self._numbers: list[float] = []

    def add(self, record: Any) -> None:
        """Takes one record."""
        try:
            found = _usual_values(record)
        except (KeyError, OverflowError):
            found = None
        if found is None:
            self.odd[len(self.crowd)] = _packed(record)
            found = (0, 0, 0), [0, 0, 0, 0], math.nan, _ODD, ()
        keys, box, area, crowd, polygons = found
        self._keys += keys
        self._boxes += box
        self._areas.append(area)
        self.crowd.append(crowd)
        for polygon in polygons:
            self._numbers += polygon
            self.polygon_ends.append(len(self.numbers) + len(self._numbers))
        self.object_ends.append(len(self.polygon_ends) - 1)
        if len(self._numbers) >= PIECE or len(self._boxes) >= PIECE:
            self.pack()

    def pack(self) -> None:
        """Moves the lists into the arrays."""
        self.keys.extend(array("q", self._keys))
        self.boxes.extend(array("d", self._boxes))
        self.areas.extend(array("d", self._areas))
        numbers = np.fromiter(self._numbers, np.float64, len(self._numbers))
        self.reach = max(self.reach, float(np.abs(numbers).max(initial=0)))
        piece = packed(numbers)
        if piece.dtype == np.float64 and self.numbers.typecode == "i":
            self.numbers = array("d", as_floats(np.frombuffer(self.numbers, np.int32)).tobytes())
        self.numbers.frombytes((piece if self.numbers.typecode == "i" else numbers).tobytes())
        self._clear()

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns all but the odd records, see `AnnotationColumns`."""
        self.pack()
        keys = np.frombuffer(self.keys, np.int64).reshape(-1, 3)
        ids, image_ids, category_ids = map(np.ascontiguousarray, keys.T)
        return {
            "ids": ids,
            "image_ids": image_ids,
            "category_ids": category_ids,
            "boxes": np.frombuffer(self.boxes).reshape(-1, 4),
            "crowd": np.frombuffer(self.crowd, np.int8),
            "areas": np.frombuffer(self.areas),
            "polygon_ends": np.frombuffer(self.polygon_ends, np.int64),
            "object_ends": np.frombuffer(self.object_ends, np.int64),
            "reach": np.array([self.reach]),
            NUMBERS: np.frombuffer(self.numbers, self.numbers.typecode),
        }


_Usual = tuple[tuple[int, int, int], list[float], float, int, Sequence[list[float]]]


def _usual_values(record: Any) -> _Usual | None:
    """Returns ids of the record, its image and its category, box, area, crowd flag and polygons;
    None if it is odd. Raises KeyError or OverflowError for some of the odd ones.
    """
    if type(record) is not dict or record.get("ignore") or rotation(record):
        return None
    keys = record["id"], record["image_id"], record["category_id"]
    for key in keys:
        if type(key) is not int or not -EXACT < key < EXACT:
            return None
    box, mask = record["bbox"], record.get("segmentation")
    if type(box) is not list or len(box) != 4 or not _are_numbers(box):
        return None
    area, crowd = record.get("area", math.nan), record.get("iscrowd", _NO_CROWD)
    if "area" in record and not (type(area) in _NUMBERS and math.isfinite(area)):
        return None
    if "iscrowd" in record and not (type(crowd) is int and crowd in (0, 1)):
        return None
    if not mask:
        return keys, box, area, crowd, ()
    if type(mask) is not list:
        return None
    for part in mask:
        if type(part) is not list or len(part) < 6 or len(part) % 2 or not _are_numbers(part):
            return None
    return keys, box, area, crowd, mask


def rotation(record: Mapping[str, Any]) -> Any:
    """Returns the attribute of a rotated box, as CVAT writes it next to the upright one."""
    attributes = record.get("attributes")
    return attributes.get("rotation") if type(attributes) is dict else None


def _with_counts(record: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Returns the record, its run lengths changed if they are of this kind."""
    mask = record.get("segmentation") if isinstance(record, dict) else None
    if not isinstance(mask, dict) or type(mask.get("counts")) is not kind:
        return record
    return {**record, "segmentation": {**mask, "counts": change(mask["counts"])}}


def _packed(record: Any) -> Any:
    """Returns an odd record as it is kept."""
    return _with_counts(record, list, _packed_counts)


def _packed_counts(counts: list[Any]) -> Any:
    """Run lengths in a fifth of the memory, if they are whole numbers."""
    try:
        return array("q", counts) if set(map(type, counts)) == {int} else counts
    except OverflowError:
        return counts


def _are_numbers(values: list[Any]) -> bool:
    """Returns whether all are finite numbers; raises OverflowError for one that no float can be."""
    return set(map(type, values)) <= _NUMBERS and math.isfinite(sum(values))
