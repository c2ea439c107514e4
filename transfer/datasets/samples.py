"""What every detection data set is made of: images with boxes, classes and, perhaps, masks.

These are the plain types that the VOC and the COCO reader fill and everything else reads.
Boxes are XYXY in pixels of the original image, 0-based and half-open, with the annotated numbers:
x1 <= x2, and they may reach beyond the image (see `box_checks.py`). VOC's 1-based inclusive boxes become
this in `voc.py`, and go back in `detection/evaluation/voc.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pretrain.common.findings import Findings

# A kind of finding. Detectron2 filters these in training and keeps them among the objects to be
# found: so do we.
AREALESS = "boxes without area are not trained on"


# Another kind: "Cat" and "cat" are two classes, which is seldom meant.
LIKE_NAMES = (
    "classes differ from others in letter case, spaces, hyphens or underscores only, and are kept "
    "apart"
)


def note_like_names(names: Iterable[str], findings: Findings) -> None:
    """Notes classes whose names differ in letter case, spaces, hyphens or underscores only."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[re.sub(r"[\s_-]", "", name).casefold()].append(name)
    for group in alike.values():
        if len(group) > 1:
            findings.note(LIKE_NAMES, " and ".join(f"'{name}'" for name in group))


@dataclass(frozen=True)
class Instance:
    """One annotated object.

    `polygons` holds flat lists x, y, x, y, ... in pixels of the original image; `rle` is a COCO
    run-length mask of the whole image. At most one of the two is set.
    """

    box: tuple[float, float, float, float]
    category: int
    crowd: bool = False
    difficult: bool = False
    polygons: list[list[float]] | None = None
    rle: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sample:
    """One image: its file, its size in pixels as annotated, and its objects."""

    file_name: str
    image_id: int | str
    height: int
    width: int
    instances: tuple[Instance, ...]

    def trainable(self) -> bool:
        """Whether at least one object is not a crowd region: images without one are not trained on."""
        return any(not instance.crowd for instance in self.instances)


@dataclass(frozen=True)
class DetectionSet:
    """A split of a detection data set.

    `classes[i]` names category i; `category_ids[i]` is its id in a COCO file (VOC: i + 1).
    `layout` is "voc" or "coco" and decides which evaluator scores predictions on the set.
    """

    name: str
    layout: str
    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    annotation_file: Path | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def limited(self, count: int) -> DetectionSet:
        """The first `count` images that can be trained on (0: all images)."""
        if count <= 0:
            return self
        kept = [sample for sample in self.samples if sample.trainable()][:count]
        return replace(self, samples=tuple(kept))

    def has_run_lengths(self) -> bool:
        """Whether the mask of an object that can be trained on is not a polygon."""
        return any(i.rle is not None for s in self.samples for i in s.instances if not i.crowd)
