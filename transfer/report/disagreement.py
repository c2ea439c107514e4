"""How differently two detectors see an image: two lists of boxes in, a number out.

A box is (x1, y1, x2, y2, score, class), XYXY in pixels. No annotation is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

Box = Sequence[float]

MIN_IOU = 0.5


def disagreement(one: Sequence[Box], two: Sequence[Box]) -> float:
    """Scores of the boxes that only one has, plus score differences of those that both have.

    Both have a box where the classes agree and the boxes overlap by an IoU of 0.5 or more; each
    box is paired once, those that overlap most first. Symmetric, and 0 for equal lists.
    """
    overlaps = [(iou(a, b), i, j) for i, a in enumerate(one) for j, b in enumerate(two)]
    left, right = set(range(len(one))), set(range(len(two)))
    total = 0.0
    for overlap, i, j in sorted(overlaps, reverse=True):
        if overlap < MIN_IOU:
            break
        if i in left and j in right and one[i][5] == two[j][5]:
            left.remove(i)
            right.remove(j)
            total += abs(one[i][4] - two[j][4])
    return total + sum(one[i][4] for i in left) + sum(two[j][4] for j in right)


def hits(found: Sequence[Box], truth: Sequence[Box]) -> list[bool | None]:
    """Whether each found box is right, in the order of falling scores.

    `truth` are (x1, y1, x2, y2, class, counts). Right: the object of the class that overlaps most,
    by an IoU of 0.5 or more, that no surer box took. None: it lies on an object that does not
    count (crowd, difficult).
    """
    free = set(range(len(truth)))
    results: list[bool | None] = []
    for box in found:
        same = [
            (iou(box, truth[k]), k)
            for k in range(len(truth))
            if truth[k][4] == box[5] and k in free
        ]
        overlap, best = max(same, default=(0.0, -1))
        if overlap < MIN_IOU:
            results.append(False)
        elif not truth[best][5]:
            results.append(None)
        else:
            free.remove(best)
            results.append(True)
    return results


def iou(one: Box, two: Box) -> float:
    """Intersection over union of two boxes, half-open pixels."""
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, two))
    return width * height / (areas - width * height)
