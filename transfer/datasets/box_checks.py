"""Which annotated boxes are taken, one rule for the COCO and the VOC reader, and how two overlap.

Boxes are XYXY in pixels, 0-based and half-open, and are checked against the size of their image.
Findings go to the reader's Findings. A box always keeps its annotated numbers: training clips it to
the image after resizing (`detection/data/transforms.py`), as Detectron2 does, and the evaluators
score it as it is annotated. Boxes that contradict themselves (not finite, exchanged corners,
completely outside the image) are refused: they show that the numbers mean something else, such as
x1, y1, x2, y2 read as x, y, width, height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

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
ROTATED = (
    "boxes have an attribute 'rotation', which is not used: the box is taken as it was before it "
    "was rotated"
)
NOT_FINITE = "boxes have numbers that are not finite"
RELATIVE = "all boxes are below 1 px: relative coordinates?"
TO_PIXELS = "multiply them by the width and the height of their image"
REMEDY = "correct the boxes or the sizes of their images, or remove the objects"

Box = tuple[float, float, float, float]


class RelativeCheck:
    """Notices files whose coordinates are all fractions of the sides of their images.

    Args:
        findings: takes what is found.
        kind: the finding.
    """

    def __init__(self, findings: Findings, kind: str) -> None:
        self._findings, self._kind = findings, kind
        self._first = ""
        self._possible = True
        self._fractions = False
        self.count = 0  # objects

    def add(
        self, where: Callable[[], str], values: Iterable[float], largest: float, shortest: int
    ) -> None:
        """Takes an object.

        Args:
            where: makes its name in a message.
            values: its coordinates; `largest` of them and of the lengths between them.
            shortest: side of its image, in pixels.
        """
        self._first = self._first or where()
        self.count += 1
        if self._possible:
            self._possible = shortest > 2 and largest <= 1
            self._fractions |= any(value % 1 for value in values)

    def add_clear(self, count: int) -> None:
        """Takes `count` objects whose coordinates are certainly in pixels."""
        self.count += count
        self._possible &= not count

    def finish(self) -> None:
        """Reports what was counted. Call it after the last object, before the findings report."""
        if self.count and self._possible and self._fractions:
            self._findings.refuse(self._kind, self._first, TO_PIXELS, self.count)


class BoxCheck:
    """Judges all boxes of one file or folder, one after the other.

    Args:
        findings: takes what is found.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._beyond: list[str] = []
        self._relative = RelativeCheck(findings, RELATIVE)

    def add(self, where: str, box: Box, width: int, height: int) -> bool:
        """Returns whether the box can be taken.

        Args:
            where: the object, as messages name it: "annotation 17".
            box: x1, y1, x2, y2 in pixels, as annotated.
            width, height: size of the image in pixels.
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
        largest = max(x1, y1, x2 - x1, y2 - y1)
        self._relative.add(
            lambda: _place(where, box, width, height), box, largest, min(width, height)
        )
        return True

    def add_clear(self, count: int) -> None:
        """Takes `count` boxes that have an area, are larger than a pixel and in their images."""
        self._relative.add_clear(count)

    def finish(self) -> None:
        """Reports what was counted. Call it after the last box, before the findings report."""
        for where_box in self._beyond:
            self._findings.note(BEYOND.format(self._relative.count), where_box)
        self._relative.finish()


def fault(box: Box, width: int, height: int) -> str:
    """Returns why a box cannot be taken, or "": a box that is partly outside can, one without area
    too.
    """
    x1, y1, x2, y2 = box
    if not math.isfinite(x1 + y1 + x2 + y2):
        return NOT_FINITE
    if x2 < x1 or y2 < y1:
        return EXCHANGED
    if _within(box, width, height) or x1 < width and y1 < height and x2 > 0 and y2 > 0:
        return ""
    return OUTSIDE


def _within(box: Box, width: int, height: int) -> bool:
    """Returns whether the box is in its image, but for what the official annotations leave theirs
    by.
    """
    x1, y1, x2, y2 = box
    return (
        x1 >= -TOLERANCE_PX
        and y1 >= -TOLERANCE_PX
        and x2 <= width + TOLERANCE_PX
        and y2 <= height + TOLERANCE_PX
    )


def _place(where: str, box: Box, width: int, height: int) -> str:
    return f"{where} ({', '.join(f'{value:g}' for value in box)}) in {width} x {height}"


def iou(one: Sequence[float], two: Sequence[float]) -> float:
    """Returns the intersection over union of two boxes, which start with XYXY."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return width * height / (areas - width * height)
