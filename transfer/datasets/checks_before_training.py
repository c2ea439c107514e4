"""What a detection data set holds, said before it is trained on, and what would make a run useless.

It makes a text for the log and a line for the doctor. The checks raise an InputError if there is
nothing to train on, nothing to find, or if objects have no masks. Objects and images that are
there twice are counted in a warning. Images without an object that is trained on are left out of
the training, as in Detectron2 (DATALOADER.FILTER_EMPTY_ANNOTATIONS).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from pretrain.data.fingerprint import mixed
from pretrain.data.origins import evenly
from transfer.datasets.box_checks import TOLERANCE_PX, Box, iou
from transfer.datasets.coco_masks import mask_box
from transfer.datasets.samples import DetectionSet

MOST_CLASSES = 100  # a log's table shows so many; if there are more, the largest
LARGEST, NAMED = 12, 5
WIDTH = 100  # characters of the table
DENSE = "images have more objects than TEST.DETECTIONS_PER_IMAGE {}, so not all can be found"

TWICE = (
    "objects have the image, class and box of an earlier one: each is trained on, but a detector "
    "can find only one of them"
)
IMAGE_TWICE = (
    "images are listed more than once: the objects of one entry are background in the others"
)
MISFIT = (
    "of {} boxes that were compared with the mask of their object these overlap less than half with"
    " the box around it: are they x1, y1, x2, y2, or of an image of a different size?"
)
COMPARED = 500  # images, evenly spaced, whose boxes and masks are compared


@dataclass(frozen=True)
class Counts:
    """Holds numbers of a data set.

    Attributes:
        objects: all of them; crowd, difficult: how many of these are marked so.
        per_class: (class, objects that are not crowd regions), in the set's order.
        empty, only_crowd: images without an object, and with crowd regions alone.
    """

    images: int
    objects: int
    crowd: int
    difficult: int
    per_class: tuple[tuple[str, int], ...]
    empty: int
    only_crowd: int

    def line(self, trained: bool) -> str:
        """Returns the numbers in a sentence; `trained` also says which images are left out."""
        text = ", ".join([_some(self.images, "image"), _some(self.objects, "object")])
        text += f" of {_some(len(self.per_class), 'class', 'classes')}"
        marked = [
            _some(self.crowd, "crowd region") if self.crowd else "",
            f"{self.difficult:,} difficult" if self.difficult else "",
        ]
        text += f" ({', '.join(filter(None, marked))})" if any(marked) else ""
        if trained and self.empty + self.only_crowd:
            reasons = [
                f"{self.empty:,} without an object" if self.empty else "",
                f"{self.only_crowd:,} with crowd regions only" if self.only_crowd else "",
            ]
            left_out, why = self.empty + self.only_crowd, ", ".join(filter(None, reasons))
            text += f"; not trained on {_some(left_out, 'image')}: {why}"
        return text

    def classes(self) -> str:
        """Returns the largest and the smallest classes, and those without an object, in a
        sentence.
        """
        ranked = self._ranked()
        if len(ranked) <= 2 * NAMED:
            return f"objects per class: {_pairs(ranked)}{self._without()}"
        first, last = _pairs(ranked[:NAMED]), _pairs(ranked[-NAMED:])
        return f"objects per class: {first}, ..., {last}{self._without()}"

    def table(self) -> str:
        """Returns objects per class in columns.

        If there are too many classes, the columns have the largest ones, and a line has the rest.
        """
        ranked = self._ranked()
        rest = ranked[LARGEST:] if len(ranked) > MOST_CLASSES else []
        shown = ranked[: len(ranked) - len(rest)]
        lines = [_columns(shown)] if shown else []
        if rest:
            lines.append(
                f"{len(rest):,} other classes have {rest[-1][1]:,} to {rest[0][1]:,} objects"
            )
        without = self._without().removeprefix("; ")
        return "\n".join([*lines, without] if without else lines)

    def _ranked(self) -> list[tuple[str, int]]:
        present = [(name, count) for name, count in self.per_class if count]
        return sorted(present, key=lambda pair: -pair[1])

    def _without(self) -> str:
        names = [name for name, count in self.per_class if not count]
        if not names:
            return ""
        more = f" and {len(names) - NAMED:,} more" if names[NAMED:] else ""
        classes = _some(len(names), "class", "classes")
        return f"; no object of {classes}: {', '.join(names[:NAMED])}{more}"


def count(data: DetectionSet) -> Counts:
    """Returns the numbers of a set."""
    objects = data.objects
    found = np.bincount(objects.category[~objects.crowd], minlength=len(data.classes)).tolist()
    with_any = len(np.unique(objects.image))
    return Counts(
        len(data),
        len(objects.image),
        int(objects.crowd.sum()),
        int(objects.difficult.sum()),
        tuple(zip(data.classes, found)),
        len(data) - with_any,
        with_any - len(data.trainable_rows()),
    )


def describe(data: DetectionSet, role: str = "") -> str:
    """Returns the set for a log: a line, and a table of its classes.

    `role`: "training" also says which images are left out; "test", or "".
    """
    counts = count(data)
    line = counts.line(trained=role == "training")
    return f"{role} data {data.name}: {line}\n{counts.table()}".strip()


def check_trainable(data: DetectionSet) -> None:
    """Raises InputError unless an image has an object to train on."""
    boxes = data.objects.boxes[~data.objects.crowd]
    if not len(boxes):
        raise InputError(f"no image of {data.name} has an object to train on{_why(data)}")
    if not (boxes[:, :2] < boxes[:, 2:]).all(axis=1).any():
        raise InputError(
            f"no object of {data.name} has a box with an area; training needs at least one"
        )


def check_masks(data: DetectionSet, remedy: str) -> None:
    """Raises InputError unless every object has a mask, with the count and the first images."""
    objects = data.objects
    masked = objects.polygons | objects.rle
    if not (masked & ~objects.crowd).any():
        raise InputError(f"no object of {data.name} has a mask{_why(data)}; {remedy}")
    findings = Findings(data.name)
    rows, counts = np.unique(objects.image[~masked & ~objects.crowd], return_counts=True)
    for row, bare in zip(rows.tolist(), counts.tolist()):
        name = Path(data.samples[row].file_name).name
        findings.refuse("objects have no mask", name, remedy, bare)
    findings.report()


def check_one_file(data: DetectionSet) -> None:
    """Raises InputError for several COCO files, which cannot be scored on as one."""
    if data.layout in ("coco", "lvis") and data.annotation_file is None:
        raise InputError(
            f"{data.name} has several COCO files, but TRANSFER.LR_SWEEP scores on images of one "
            "file; name one file, or set TRANSFER.LR_SWEEP.RATES ()"
        )


def check_scorable(data: DetectionSet, detections: int) -> None:
    """Raises InputError if a set has no object to find.

    Warns, with counts, of images with more objects than a detector may find.

    Args:
        detections: that a detector gives of an image at most, TEST.DETECTIONS_PER_IMAGE; below 0
            all of them.
    """
    if (data.objects.difficult | data.objects.crowd).all():
        raise InputError(
            f"no image of the test set {data.name} has an object to find{_why(data)}; "
            "there would be no score"
        )
    findings = Findings(data.name)
    rows, counts = np.unique(data.objects.image[~data.objects.crowd], return_counts=True)
    for row, objects in zip(rows.tolist(), counts.tolist()):
        if 0 <= detections < objects:
            place = f"{Path(data.samples[row].file_name).name} with {objects}"
            findings.note(f"{DENSE.format(detections)}: raise that key", place)
    findings.report()


def note_repeats(data: DetectionSet) -> None:
    """Warns, with counts, of objects and images that a set has twice, as merged exports do.

    Detectron2 and the evaluators say nothing about them, but they lower the score. Crowd regions
    are not compared.
    """
    findings = Findings(data.name)
    for row in _repeated_objects(data):
        box = ", ".join(f"{value:g}" for value in data.objects.boxes[row])
        name = Path(data.samples[int(data.objects.image[row])].file_name).name
        findings.note(TWICE, f"{name}: '{data.classes[data.objects.category[row]]}' ({box})")
    for encoded in _repeated(data.origin.names()):
        findings.note(IMAGE_TWICE, Path(os.fsdecode(encoded)).name)
    findings.report()


def note_misfits(data: DetectionSet) -> None:
    """Warns, with counts, of boxes that are not around their masks, as numbers that mean something
    else are. Detectron2 trains masks within their boxes, and says nothing. Crowd regions are not
    compared.
    """
    compared, places = 0, []
    for row in evenly(len(data.samples), COMPARED):
        sample = data.samples[row]
        for found in sample.instances:
            mask = found.polygons or found.rle
            around = mask_box(mask) if mask and not found.crowd else None
            if around is None or not (_has_area(found.box) and _has_area(around)):
                continue
            compared += 1
            if _overlap(found.box, around) < 0.5:
                texts = (", ".join(f"{value:g}" for value in box) for box in (found.box, around))
                places.append(f"{Path(sample.file_name).name}: ({') and mask ('.join(texts)})")
    findings = Findings(data.name)
    for place in places:
        findings.note(MISFIT.format(compared), place)
    findings.report()


def _has_area(box: Box) -> bool:
    return box[0] < box[2] and box[1] < box[3]


def _overlap(one: Box, other: Box) -> float:
    """IoU of two boxes. Each is a pixel larger on each side: tiny masks end at whole pixels."""
    low, high = -TOLERANCE_PX, TOLERANCE_PX
    first, second = [np.add(box, (low, low, high, high)).tolist() for box in (one, other)]
    return iou(first, second)


def _repeated_objects(data: DetectionSet) -> list[int]:
    """Rows of objects whose image, class and box an earlier row has."""
    objects = data.objects
    rows = np.flatnonzero(~objects.crowd)
    labels = np.stack([objects.image[rows], objects.category[rows]], axis=1).astype(np.int64)
    boxes = objects.boxes[rows] + 0.0  # -0.0 is 0.0
    keys = mixed(np.concatenate([labels, boxes.view(np.int64)], axis=1))
    first = np.unique(keys, return_index=True)[1]
    return np.delete(rows, first).tolist()


def _repeated(names: Sequence[bytes]) -> Iterator[bytes]:
    """Names that an earlier place has."""
    seen = set[bytes]()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def _some(number: int, one: str, many: str = "") -> str:
    """Returns a count with its noun, such as "1 image" or "1,203 images"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def _why(data: DetectionSet) -> str:
    """Returns the mark that all objects have."""
    counts = count(data)
    if not counts.objects:
        return ": it has no objects"
    if counts.crowd == counts.objects:
        return f": all objects are crowd regions, 'iscrowd' 1 ({counts.objects:,})"
    if counts.difficult + counts.crowd == counts.objects:
        return f": all objects are difficult or crowd regions ({counts.objects:,})"
    return ""


def _pairs(ranked: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in ranked)


def _columns(ranked: Sequence[tuple[str, int]]) -> str:
    """Names and counts side by side, down the columns first."""
    name_width = max(len(name) for name, _ in ranked)
    count_width = max(len(f"{count:,}") for _, count in ranked)
    cells = [f"{name:<{name_width}} {count:>{count_width},}" for name, count in ranked]
    columns = max(1, min(len(cells), WIDTH // (len(cells[0]) + 3)))
    rows = -(-len(cells) // columns)
    split = [cells[i * rows : (i + 1) * rows] for i in range(columns)]
    lines = zip_longest(*filter(None, split), fillvalue="")
    return "\n".join(f"  {' | '.join(row)}".rstrip(" |") for row in lines)
