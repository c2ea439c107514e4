"""Segmentations of a COCO file: polygons and run lengths, checked before anything decodes them.

The value of "segmentation" becomes polygons as lists of floats, or compressed run lengths of the
whole image, whose size in pixels must be known. Run lengths whose sum is not height x width are
refused here, because they make the evaluators fail without a file's name, or never end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pretrain.common.findings import Findings
from transfer.datasets.annotation_values import EXACT, as_number, read_numbers, shown

Segmentation = list[list[float]] | dict[str, Any]

NOT_POLYGONS = "segmentations are neither a list of polygons nor run lengths"
PAIRS = "polygons are lists of points, as [x, y] or {x, y}"
PAIRS_REMEDY = "write each polygon as one list x, y, x, y, ..."
FLAT = "polygons are not in a list of polygons"
FLAT_REMEDY = "write [[x, y, x, y, ...]] instead of [x, y, x, y, ...]"
DEEP = "polygons are in one list too many"
DEEP_REMEDY = "write [[x, y, x, y, ...]] instead of [[[x, y, x, y, ...]]]"
RLE_IN_LIST = "run lengths are inside a list"
RLE_IN_LIST_REMEDY = "write the record {size, counts} itself"
OTHER_SIZE = "run lengths have a different size (height, width) from their image"
NO_COUNTS = "run lengths cannot be read"
BYTES = "run lengths are what Python's str() makes of bytes"
BYTES_REMEDY = 'write counts.decode("ascii") in place of str(counts)'
FAR = "polygons reach a million pixels and more"
SUM = "run lengths do not fill their image, height x width pixels"
SHORTEST = 6  # numbers of a polygon with three points
FAR_PX = 1e6  # filling such a polygon takes gigabytes, and minutes
RLE_REMEDY = "export the masks again"
MASK_REMEDY = "write polygons, [[x, y, x, y, ...]], or run lengths, {size, counts}"

_LOW, _HIGH = 48, 111  # characters of compressed counts: 6 bits each, above "0"


def read_segmentation(
    findings: Findings, where: str, value: Any, height: int, width: int
) -> Segmentation | None:
    """Returns all polygons, or run lengths; None if there is no mask, or a refused one."""
    if not value:
        return None
    if _is_rle(value):
        return _read_rle(findings, where, value, height, width)
    kind, remedy = _fault(value)
    if kind:
        findings.refuse(kind, f"{where} ({shown(value)})", remedy)
        return None
    read = [read_numbers(findings, where, "segmentation", part) for part in value]
    polygons = [polygon for polygon in read if polygon is not None]
    if len(polygons) < len(read):
        return None
    for polygon in polygons:
        if polygon and not -FAR_PX < min(polygon) <= max(polygon) < FAR_PX:
            findings.refuse(FAR, f"{where} ({shown(polygon)})", "correct the file")
            return None
    return polygons


def _fault(value: Any) -> tuple[str, str]:
    """Returns why a value is not a list of polygons, and the remedy; "" if it is one."""
    if not isinstance(value, list):
        return NOT_POLYGONS, MASK_REMEDY
    if all(map(_is_rle, value)):
        return RLE_IN_LIST, RLE_IN_LIST_REMEDY
    if all(as_number(part) is not None for part in value):
        return FLAT, FLAT_REMEDY
    if _is_pairs(value) or any(map(_is_pairs, value)):
        return PAIRS, PAIRS_REMEDY
    if not all(isinstance(part, list) for part in value):
        return NOT_POLYGONS, MASK_REMEDY
    if any(isinstance(item, list) for part in value for item in part):
        return DEEP, DEEP_REMEDY
    return "", ""


def mask_area(segmentation: Segmentation, height: int, width: int) -> float:
    """Returns the pixels of a mask, as pycocotools counts them."""
    from pycocotools import mask as mask_utils

    if isinstance(segmentation, dict):
        return float(mask_utils.area(segmentation))
    polygons = [polygon for polygon in segmentation if len(polygon) >= SHORTEST]
    if not polygons:
        return 0.0
    return float(mask_utils.area(mask_utils.merge(mask_utils.frPyObjects(polygons, height, width))))


def mask_box(segmentation: Segmentation) -> tuple[float, float, float, float]:
    """Returns x1, y1, x2, y2 around a mask that is not empty, in pixels."""
    if isinstance(segmentation, dict):
        from pycocotools import mask as mask_utils

        x, y, width, height = mask_utils.toBbox(segmentation).tolist()
        return x, y, x + width, y + height
    xs = [x for polygon in segmentation for x in polygon[::2]]
    ys = [y for polygon in segmentation for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def for_evaluators(segmentation: Segmentation) -> Segmentation:
    """Returns the same mask in a form that pycocotools reads.

    It takes a first polygon of four numbers for a list of boxes, and fails. A mask is the union of
    its polygons, so their order has no effect.
    """
    if isinstance(segmentation, dict):
        return segmentation
    return sorted(filter(None, segmentation), key=lambda polygon: len(polygon) < SHORTEST)


def has_polygon(polygons: list[list[float]]) -> bool:
    """Returns whether one of them has three points or more."""
    return any(len(polygon) >= SHORTEST for polygon in polygons)


def has_pixels(segmentation: Segmentation, height: int, width: int) -> bool:
    """Returns whether a mask covers anything of its image. Most polygons need not be filled for
    that.
    """
    if isinstance(segmentation, list):
        for polygon in segmentation:
            xs, ys = polygon[::2], polygon[1::2]
            left, right, top, low = min(xs), max(xs), min(ys), max(ys)
            area = sum(x * y2 - x2 * y for x, y, x2, y2 in zip(xs, ys, xs[1:], ys[1:]))
            area += xs[-1] * ys[0] - xs[0] * ys[-1]
            if 0 <= left and right <= width and 0 <= top and low <= height and abs(area) > 8:
                return True
    return mask_area(segmentation, height, width) > 0


def _is_rle(value: Any) -> bool:
    return isinstance(value, dict) and ("counts" in value or "size" in value)


def _is_pairs(part: Any) -> bool:
    """At least three lists of two values, or records of x and y: points, not polygons."""
    return isinstance(part, list) and len(part) >= 3 and all(map(_is_point, part))


def _is_point(value: Any) -> bool:
    if isinstance(value, dict):
        return "x" in value and "y" in value
    return isinstance(value, list) and len(value) == 2


def _read_rle(
    findings: Findings, where: str, mask: Mapping[str, Any], height: int, width: int
) -> dict[str, Any] | None:
    size = mask.get("size")
    sides = [as_number(side) for side in size] if isinstance(size, (list, tuple)) else None
    if sides != [height, width]:
        place = f"{where} ({shown(size)}, image [{height}, {width}])"
        findings.refuse(OTHER_SIZE, place, RLE_REMEDY)
        return None
    counts = mask.get("counts")
    lengths = _lengths(counts)
    if lengths is None:
        is_bytes = isinstance(counts, str) and counts.startswith(("b'", 'b"'))
        kind, remedy = (BYTES, BYTES_REMEDY) if is_bytes else (NO_COUNTS, RLE_REMEDY)
        findings.refuse(kind, f"{where} (counts {shown(counts)})", remedy)
        return None
    if int(lengths.sum()) != height * width:
        place = f"{where} (sum {int(lengths.sum())}, image {height} x {width} = {height * width})"
        findings.refuse(SUM, place, RLE_REMEDY)
        return None
    without_gaps = bool(lengths[1:].all())
    if isinstance(counts, str) and without_gaps:
        return {"size": [height, width], "counts": counts}
    from pycocotools import mask as mask_utils

    runs = lengths.tolist() if without_gaps else _joined(lengths.tolist())
    return mask_utils.frPyObjects({"size": [height, width], "counts": runs}, height, width)


def _joined(lengths: list[int]) -> list[int]:
    """Returns the run lengths of the same mask without runs of 0 pixels, but for the first.

    Comparing two masks, pycocotools stops at a place where both have such a run, and it computes
    the box around them wrongly.
    """
    found = [0]
    for place, length in enumerate(lengths):
        if place % 2 == (len(found) - 1) % 2:  # the value of the pixels is that of the last run
            found[-1] += length
        elif length:
            found.append(length)
    return found


def _lengths(counts: Any) -> np.ndarray | None:
    """Returns int64 run lengths of a list or of compressed text; None if they are not readable."""
    if isinstance(counts, str):
        return _decompress(counts)
    if not isinstance(counts, list):
        return None
    numbers = [as_number(count) for count in counts]
    if any(number is None or not 0 <= number < EXACT or number % 1 for number in numbers):
        return None
    return np.array(numbers, dtype=np.int64)


def _decompress(text: str) -> np.ndarray | None:
    """Decodes COCO's compressed counts (pycocotools, rleFrString): 5 bits and a sign each, as
    differences. Returns None if the text is damaged.
    """
    try:
        codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64)
    except UnicodeEncodeError:
        return None
    if not len(codes) or codes.min() < _LOW or codes.max() > _HIGH:
        return None
    codes -= _LOW
    ends = np.flatnonzero(codes & 0x20 == 0)
    if not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    if (ends - starts).max() > 6:  # more than 35 bits
        return None
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((codes & 0x1F) << (5 * places), starts)
    values -= (codes[ends] & 0x10 != 0) * (1 << (5 * (ends - starts + 1)))
    # From the fourth on, a length is written as the difference from the one two before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values if values.min() >= 0 else None
