"""Which annotated boxes are taken: one rule for the COCO and the VOC reader.

Boxes are XYXY in pixels, 0-based and half-open, and are checked against the size of their image.
Findings go to the reader's Findings. A box always keeps its annotated numbers: training clips it to
the image after resizing (`detection/data/transforms.py`), as Detectron2 does, and the evaluators
score it as it is annotated. Boxes that contradict themselves (not finite, exchanged corners,
completely outside the image) are refused: they show that the numbers mean something else, such as
x1, y1, x2, y2 read as x, y, width, height.
"""

from __future__ import annotations

import math

from pretrain.common.findings import Findings
from transfer.datasets.samples import AREALESS

# The official annotations leave their images by fractions of a pixel.
TOLERANCE_PX = 1.0
BEYOND = (
    "of {} boxes these reach beyond their image: they are clipped to it in training and scored as "
    "annotated"
)
EXCHANGED = "boxes have a negative width or height"
OUTSIDE = "boxes are completely outside their image"
NOT_FINITE = "boxes have numbers that are not finite"
RELATIVE = "all boxes are below 1 px: relative coordinates?"
REMEDY = "correct the boxes, or remove the objects"

Box = tuple[float, float, float, float]


class BoxCheck:
    """Judges all boxes of one file or folder, one after the other.

    Args:
        findings: takes what is found.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._first = ""
        self._beyond: list[str] = []
        self._count = 0
        self._relative = True
        self._fractions = False

    def add(self, where: str, box: Box, width: int, height: int) -> bool:
        """Whether the box can be taken.

        Args:
            where: the object, as messages name it: "annotation 17".
            box: x1, y1, x2, y2 as annotated.
            width, height: of the image, in pixels.
        """
        kind = fault(box, width, height)
        if kind:
            self._findings.refuse(kind, _place(where, box, width, height), REMEDY)
            return False
        x1, y1, x2, y2 = box
        if x1 == x2 or y1 == y2:
            self._findings.note(AREALESS, where)
        if not _within(box, width, height):
            self._beyond.append(_place(where, box, width, height))
        self._first = self._first or _place(where, box, width, height)
        self._count += 1
        if self._relative:
            self._relative = min(width, height) > 2 and max(x1, y1, x2 - x1, y2 - y1) <= 1
            self._fractions |= any(value % 1 for value in box)
        return True

    def add_clear(self, count: int) -> None:
        """Takes `count` boxes that have an area, are larger than a pixel and in their images."""
        self._count += count
        self._relative &= not count

    def finish(self) -> None:
        """To be called after the last box, before the findings report."""
        for where_box in self._beyond:
            self._findings.note(BEYOND.format(self._count), where_box)
        if self._count and self._relative and self._fractions:
            remedy = "multiply them by the width and the height of their image"
            self._findings.refuse(RELATIVE, self._first, remedy, self._count)


def fault(box: Box, width: int, height: int) -> str:
    """Why a box cannot be taken, or "": a box that is partly outside can, one without area too."""
    x1, y1, x2, y2 = box
    if not math.isfinite(x1 + y1 + x2 + y2):
        return NOT_FINITE
    if x2 < x1 or y2 < y1:
        return EXCHANGED
    if _within(box, width, height) or x1 < width and y1 < height and x2 > 0 and y2 > 0:
        return ""
    return OUTSIDE


def _within(box: Box, width: int, height: int) -> bool:
    """Whether the box is in its image, but for what the official annotations leave theirs by."""
    x1, y1, x2, y2 = box
    return (
        x1 >= -TOLERANCE_PX
        and y1 >= -TOLERANCE_PX
        and x2 <= width + TOLERANCE_PX
        and y2 <= height + TOLERANCE_PX
    )


def _place(where: str, box: Box, width: int, height: int) -> str:
    return f"{where} ({', '.join(f'{value:g}' for value in box)}) in {width} x {height}"
