"""Judges the usual annotations of a training set all at once, and packs the samples.

An annotation is clear if reading it alone (`coco_records.read_annotations`) would say nothing about
it: its image and category are listed, its box has an area and is in its image, and its polygons
are not far away. The others are read one by one. Both together make the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from transfer.datasets.annotation_values import EXACT, Id
from transfer.datasets.box_checks import TOLERANCE_PX
from transfer.datasets.coco_annotations import AnnotationColumns
from transfer.datasets.coco_masks import FAR_PX
from transfer.datasets.coco_records import ClearRecords, Image
from transfer.datasets.coordinates import Coordinates
from transfer.datasets.sample_columns import ImageColumns, ObjectColumns, SampleColumns
from transfer.datasets.samples import Instance


def find_clear(
    records: AnnotationColumns, images: Mapping[Id, Image], categories: Mapping[Id, int]
) -> ClearRecords:
    """Returns which records are clear; `images` by ascending id."""
    clear = records.usual & np.isin(records.category_ids, _numbers(categories))
    keys = _numbers(images)
    if not len(keys) or len(keys) < len(images):
        clear[:] = False  # ids that are text are matched one by one
        return ClearRecords(np.flatnonzero(clear), np.flatnonzero(~clear), True)
    sizes = np.array([(image.width, image.height) for image in images.values()], np.float64)
    row = np.searchsorted(keys, records.image_ids).clip(max=len(keys) - 1)
    clear &= keys[row] == records.image_ids
    low, high = records.boxes[:, :2], records.boxes[:, :2] + records.boxes[:, 2:]
    limit = (sizes + TOLERANCE_PX)[row]
    clear &= (low < high).all(1) & (low >= -TOLERANCE_PX).all(1) & (high <= limit).all(1)
    # Larger than a pixel: the coordinates are not relative.
    clear &= (np.maximum(low, high - low).max(1) > 1) & (sizes[row].min(1) > 2)
    clear[_with_far_points(records)] = False
    size = records.boxes[clear, 2:]
    fit = (low[clear] < size) & (size <= limit[clear])
    return ClearRecords(np.flatnonzero(clear), np.flatnonzero(~clear), bool(fit.all()))


def pack_samples(
    folder: Path,
    images: Mapping[Id, Image],
    index: Mapping[Id, int],
    records: AnnotationColumns,
    clear: ClearRecords,
    others: Sequence[tuple[int, Id, Instance]],
) -> SampleColumns:
    """Packs all images, by ascending id, with their objects in the file's order.

    Args:
        index: by the file's id of a category, its place among the classes.
        others: place, image id and object of those that are not clear.
    """
    listed, rows = list(images.values()), clear.rows
    first = len(rows)  # the first of the others, which come behind the clear ones
    place_of = {key: place for place, key in enumerate(images)}
    image = np.searchsorted(_numbers(images), records.image_ids[rows]) if first else rows
    image = np.concatenate([image, [place_of[key] for _, key, _ in others]]).astype(np.int64)
    place = np.concatenate([rows, [place for place, _, _ in others]]).astype(np.int64)
    order = np.lexsort((place, image))
    instances = [instance for _, _, instance in others]
    polygons, ends, numbers = _with_more_polygons(records, place, instances)
    rles = {first + row: i.rle for row, i in enumerate(instances) if i.rle is not None}
    # In float32, as Detectron2 converts: else boxes differ in their last digits.
    low, size = np.split(records.boxes[rows].astype(np.float32), 2, axis=1)
    boxes = np.concatenate([low, low + size], axis=1).astype(np.float64)
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    objects = ObjectColumns(
        np.cumsum(np.bincount(image, minlength=len(listed))),
        np.concatenate([boxes, _array([i.box for i in instances], 4)])[order],
        np.concatenate([_places(index, records.category_ids[rows]), _classes(instances)])[order],
        np.concatenate([records.crowd[rows] == 1, [i.crowd for i in instances]]).astype(bool)[
            order
        ],
        polygons[order],
        ends,
        numbers,
        {int(back[row]): rle for row, rle in rles.items()},
    )
    names = _below(folder, [image.file_name for image in listed])
    sizes = [i.height for i in listed], [i.width for i in listed]
    return SampleColumns(ImageColumns.pack(names, list(images), *sizes), objects)


def _below(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns str(folder / name) of each name, without pathlib's work for those that are only a
    name.
    """
    home = str(folder / "x")[:-1]
    plain = (home + name if "/" not in name and name != "." else "" for name in names)
    return [path or str(folder / name) for path, name in zip(plain, names)]


def _with_far_points(records: AnnotationColumns) -> np.ndarray:
    """Returns places of the records with a polygon that is far from any image."""
    if records.reach[0] < FAR_PX:
        return np.zeros(0, np.int64)
    far = records.numbers.beyond(FAR_PX)
    polygons = np.searchsorted(records.polygon_ends, far, side="right") - 1
    return np.unique(np.searchsorted(records.object_ends, polygons, side="right") - 1)


def _with_more_polygons(
    records: AnnotationColumns, places: np.ndarray, instances: Sequence[Instance]
) -> tuple[np.ndarray, np.ndarray, Coordinates]:
    """Returns the first polygon of each object and the one behind its last, where each polygon
    ends, and the coordinates of all polygons: those of the records, then those of odd records.

    Args:
        places: places of the objects' records; the last ones are those of `instances`.
    """
    usual = records.usual[places]
    spans = np.stack([records.object_ends[:-1], records.object_ends[1:]], axis=1)[places]
    odd = [i.polygons or [] for i, kept in zip(instances, usual[-len(instances) :]) if not kept]
    lengths = [len(polygon) for polygons in odd for polygon in polygons]
    if not lengths:  # nothing is copied: the columns may be pages that several processes share
        return spans, records.polygon_ends, records.numbers
    behind = len(records.polygon_ends) - 1 + np.cumsum([0, *map(len, odd)])
    spans[~usual] = np.stack([behind[:-1], behind[1:]], axis=1)
    ends = len(records.numbers) + np.cumsum(lengths, dtype=np.int64)
    more = [number for polygons in odd for polygon in polygons for number in polygon]
    return spans, np.concatenate([records.polygon_ends, ends]), records.numbers.followed_by(more)


def _numbers(keys: Mapping[Id, object]) -> np.ndarray:
    """Returns the ids that are whole numbers within the columns' range."""
    return np.array([k for k in keys if isinstance(k, int) and abs(k) < EXACT], np.int64)


def _places(index: Mapping[Id, int], ids: np.ndarray) -> np.ndarray:
    keys, inverse = np.unique(ids, return_inverse=True)
    return np.array([index[key] for key in keys.tolist()], np.int64)[inverse]


def _classes(instances: Sequence[Instance]) -> np.ndarray:
    return np.array([i.category for i in instances], np.int64)


def _array(values: Sequence[Sequence[float]], width: int) -> np.ndarray:
    return np.array(values, np.float64).reshape(-1, width)
