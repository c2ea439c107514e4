"""The annotations of a COCO file in columns, which take a tenth of the memory of its records.

A usual record (whole numbers as ids, a box of four numbers, polygons of three points or more, or
none) is kept as numbers. Any other record is odd and kept as it is, so
that nothing of it is lost to the checks. The columns are a sequence of records: numbers of boxes,
areas and polygons come back as floats, and keys that nothing reads are left out.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from transfer.datasets.annotation_values import EXACT
from transfer.datasets.coordinates import Coordinates, packed

PIECE = 1 << 20  # coordinates that are packed at once
_NUMBERS = {int, float}
_NO_CROWD, _ODD = -1, -2  # in the column of the crowd flags: no key "iscrowd", an odd record


class AnnotationColumns(Sequence[Any]):
    """n records of 'annotations', packed.

    Attributes:
        ids, image_ids, category_ids: int64 (n,); 0 for an odd record.
        boxes: float64 (n, 4), x, y, width, height.
        crowd: int8 (n,), 0 or 1.
        numbers: the coordinates of all polygons, one polygon after the other.
        polygon_ends: int64, where each polygon ends in `numbers`, behind a leading 0.
        object_ends: int64 (n + 1,), where each record's polygons end among all polygons, likewise.
        odd: place -> the record itself, its run lengths packed.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        columns = _Columns()
        for record in records:
            columns.add(record)
        self.odd = columns.odd
        self.ids, self.image_ids, self.category_ids = (
            np.frombuffer(column, np.int64) for column in columns.keys
        )
        self.boxes = np.frombuffer(columns.boxes).reshape(-1, 4)
        self.crowd = np.frombuffer(columns.crowd, np.int8)
        self._areas = np.frombuffer(columns.areas)
        columns.pack()
        self.numbers = Coordinates(columns.pieces)
        self.polygon_ends = np.frombuffer(columns.polygon_ends, np.int64)
        self.object_ends = np.frombuffer(columns.object_ends, np.int64)

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
        if not math.isnan(self._areas[place]):
            record["area"] = float(self._areas[place])
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
        """bool (n,): the records that are not odd."""
        return self.crowd != _ODD

    def values(self, key: str) -> list[Any]:
        """The different values of "id", "image_id" or "category_id", as the file has them."""
        column = {"id": self.ids, "image_id": self.image_ids, "category_id": self.category_ids}[key]
        return [
            *np.unique(column[self.usual]).tolist(),
            *(record[key] for record in self.odd.values()),
        ]


def unusual(records: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(place, record) of the records that have to be looked at one by one."""
    if isinstance(records, AnnotationColumns):
        return iter(records.odd.items())
    return enumerate(records)


def values(records: Sequence[Any], key: str) -> list[Any]:
    """The values under a key; of columns each one once."""
    if isinstance(records, AnnotationColumns):
        return records.values(key)
    return [record[key] for record in records]


class _Columns:
    """The columns as they grow."""

    def __init__(self) -> None:
        self.keys = (array("q"), array("q"), array("q"))
        self.boxes, self.areas, self.numbers = array("d"), array("d"), array("d")
        self.crowd = array("b")
        self.polygon_ends, self.object_ends = array("q", [0]), array("q", [0])
        self.odd: dict[int, Any] = {}
        self.pieces: list[np.ndarray] = []
        self._packed = 0  # coordinates in the pieces

    def add(self, record: Any) -> None:
        """Takes one record."""
        try:
            usual = self._is_usual(record)
        except (KeyError, OverflowError):
            usual = False
        if usual:
            keys, box = (record["id"], record["image_id"], record["category_id"]), record["bbox"]
            area, crowd = record.get("area", math.nan), record.get("iscrowd", _NO_CROWD)
            for polygon in record.get("segmentation") or ():
                self.numbers.extend(polygon)
                self.polygon_ends.append(self._packed + len(self.numbers))
            if len(self.numbers) >= PIECE:
                self.pack()
        else:
            self.odd[len(self.crowd)] = _with_counts(record, list, _packed_counts)
            keys, box, area, crowd = (0, 0, 0), (0, 0, 0, 0), math.nan, _ODD
        for column, key in zip(self.keys, keys):
            column.append(key)
        self.boxes.extend(box)
        self.areas.append(area)
        self.crowd.append(crowd)
        self.object_ends.append(len(self.polygon_ends) - 1)

    def pack(self) -> None:
        """Makes a piece of the coordinates since the last one."""
        self.pieces.append(packed(np.array(self.numbers)))
        self._packed += len(self.numbers)
        self.numbers = array("d")

    @staticmethod
    def _is_usual(record: Any) -> bool:
        """Raises KeyError or OverflowError for some of the others."""
        if type(record) is not dict or record.get("ignore"):
            return False
        for key in (record["id"], record["image_id"], record["category_id"]):
            if type(key) is not int or not -EXACT < key < EXACT:
                return False
        box, mask = record["bbox"], record.get("segmentation")
        if type(box) is not list or len(box) != 4 or not _are_numbers(box):
            return False
        if "area" in record and not _are_numbers([record["area"]]):
            return False
        if "iscrowd" in record and not (
            type(crowd := record["iscrowd"]) is int and crowd in (0, 1)
        ):
            return False
        if not mask:
            return True
        return type(mask) is list and all(
            type(part) is list and len(part) >= 6 and len(part) % 2 == 0 and _are_numbers(part)
            for part in mask
        )


def _with_counts(record: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """The record, its run lengths changed if they are of this kind."""
    mask = record.get("segmentation") if isinstance(record, dict) else None
    if not isinstance(mask, dict) or type(mask.get("counts")) is not kind:
        return record
    return {**record, "segmentation": {**mask, "counts": change(mask["counts"])}}


def _packed_counts(counts: list[Any]) -> Any:
    """Run lengths in a fifth of the memory, if they are whole numbers."""
    try:
        return array("q", counts) if set(map(type, counts)) == {int} else counts
    except OverflowError:
        return counts


def _are_numbers(values: list[Any]) -> bool:
    """Whether all are finite numbers; raises OverflowError for one that no float can be."""
    return set(map(type, values)) <= _NUMBERS and math.isfinite(sum(values))
