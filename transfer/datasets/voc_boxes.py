"""Boxes as Pascal VOC writes them, and the conversion to the boxes of this project.

VOC counts pixels from 1 and its boxes are inclusive: (xmin, ymin, xmax, ymax) becomes
(xmin - 1, ymin - 1, xmax, ymax), continuous and half-open. Many tools count from 0 and write the
box's edges: their boxes are taken as they are. This is the only place where boxes are converted;
the inverse is in `detection/evaluation/voc.py`, which begins with Samples and so serves both.
"""

from __future__ import annotations

from collections.abc import Iterable

from pretrain.common.findings import Findings
from transfer.datasets.annotation_values import as_number
from transfer.datasets.box_checks import Box
from transfer.datasets.voc_xml import COORDINATES, VocObject

# By TRANSFER.VOC_COUNTS_FROM: whether boxes are counted from 0; None: as `is_zero_based` finds
COUNTS_FROM = {"auto": None, "zero": True, "one": False}
ZERO_BASED = (
    "boxes have a coordinate below 1: all boxes are read as counted from 0, not from 1 "
    "(TRANSFER.VOC_COUNTS_FROM sets this)"
)
CORRECT = "correct the files, or remove the objects"


def is_zero_based(objects: Iterable[tuple[str, VocObject]], findings: Findings) -> bool:
    """Returns whether any coordinate is below 1; the findings count such boxes.

    Args:
        objects: pairs of a file's name and an object in it, of all files of a folder, so that every
            split of the folder is read alike.
    """
    found = False
    for file_name, place in objects:
        values = _numbers(place)
        if values is not None and min(values) < 1:
            found = True
            findings.note(ZERO_BASED, file_name)
    return found


def convert_box(found: VocObject, zero_based: bool, findings: Findings, place: str) -> Box | None:
    """Returns the object's box in pixels, continuous and half-open; None, and a refusal, if it has
    none.

    Args:
        zero_based: whether the box is counted from 0.
        place: file and object, for the findings.
    """
    if found.box is None or None in found.box:
        lacking = [key for key, text in zip(COORDINATES, found.box or ()) if text is None]
        what = " and ".join(f"<{key}>" for key in lacking) or "<bndbox>"
        findings.refuse("objects have an incomplete box", f"{place} has no {what}", CORRECT)
        return None
    values = _numbers(found)
    if values is None:
        text = ", ".join(map(str, found.box))
        kind = "boxes have values that are not numbers"
        findings.refuse(kind, f"{place} ({text})", CORRECT)
        return None
    first = 0.0 if zero_based else 1.0
    return values[0] - first, values[1] - first, values[2], values[3]


def _numbers(found: VocObject) -> Box | None:
    """Returns the four coordinates as written; None if one is missing or not a finite number."""
    values = [as_number(text) for text in found.box or ()]
    numbers = [value for value in values if value is not None]
    if len(numbers) != len(COORDINATES):
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]
