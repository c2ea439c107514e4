"""What every detection data set is made of: images with boxes, classes and, perhaps, masks.

These are the plain types that the VOC and the COCO reader fill and everything else reads.
Boxes are XYXY in pixels of the original image, 0-based and half-open, with the annotated numbers:
x1 <= x2, and they may reach beyond the image (see `box_checks.py`). VOC's 1-based inclusive boxes
become this in `voc.py`, and go back in `detection/evaluation/voc.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeGuard

import numpy as np

from pretrain.common.findings import Findings
from pretrain.common.lookup import folded
from pretrain.data.fingerprint import Fingerprint, fingerprint_of
from pretrain.data.origins import Files, Origin
from transfer.datasets.fingerprint import ObjectLabels, keypoint_checksums, mask_checksums

# A kind of finding. Detectron2 filters these in training and keeps them among the objects to be
# found: so do we.
AREALESS = "boxes without area are not used for training, and cannot be found in a test set"


# Another kind: "Cat" and "cat" are two classes, which is seldom meant.
LIKE_NAMES = (
    "class names differ from others in letter case, accents' form, spaces, hyphens or underscores "
    "only, and are kept apart"
)


def note_like_names(names: Iterable[str], findings: Findings) -> None:
    """Notes classes whose names differ in letter case, form of accents, spaces, hyphens or
    underscores only."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[folded(re.sub(r"[\s_-]", "", name))].append(name)
    for group in alike.values():
        if len(group) > 1:
            findings.note(LIKE_NAMES, " and ".join(f"'{name}'" for name in group))


@dataclass(frozen=True)
class Instance:
    """Is one annotated object.

    `polygons` holds flat lists x, y, x, y, ... in pixels of the original image; `rle` is a COCO
    run-length mask of the whole image. At most one of the two is set. `keypoints` holds x, y, v of
    each keypoint, v its visibility (`keypoints.py`): x and y count from a corner of the image as
    the boxes do, half a pixel more than the whole numbers of COCO's pixels.
    """

    box: tuple[float, float, float, float]
    category: int
    crowd: bool = False
    difficult: bool = False
    polygons: list[list[float]] | None = None
    rle: dict[str, Any] | None = None
    keypoints: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Sample:
    """Describes one image: its file, its size in pixels as annotated, and its objects."""

    file_name: str
    image_id: int | str
    height: int
    width: int
    instances: tuple[Instance, ...]

    def trainable(self) -> bool:
        """Returns whether at least one object is not a crowd region: others are not trained on."""
        return any(not instance.crowd for instance in self.instances)


@dataclass(frozen=True)
class Objects:
    """Holds what can be counted of all m objects of a set, image by image."""

    image: np.ndarray  # int64 (m,), the image's place
    boxes: np.ndarray  # float64 (m, 4), XYXY in pixels
    category: np.ndarray  # int (m,)
    crowd: np.ndarray  # bool (m,)
    difficult: np.ndarray  # bool (m,)
    polygons: np.ndarray  # bool (m,), whether it has polygons
    rle: np.ndarray  # bool (m,), whether it has run lengths

    @staticmethod
    def of(samples: Sequence[Sample]) -> Objects:
        """Returns those of some samples."""
        pairs = [(place, i) for place, sample in enumerate(samples) for i in sample.instances]
        return Objects(
            np.array([place for place, _ in pairs], np.int64),
            np.array([i.box for _, i in pairs], np.float64).reshape(-1, 4),
            np.array([i.category for _, i in pairs], np.int64),
            np.array([i.crowd for _, i in pairs], bool),
            np.array([i.difficult for _, i in pairs], bool),
            np.array([bool(i.polygons) for _, i in pairs], bool),
            np.array([bool(i.rle) for _, i in pairs], bool),
        )


class CompactSamples(Protocol):
    """Keeps samples in columns, and makes them when they are asked for; see `sample_columns.py`."""

    def __getitem__(self, index: int) -> Sample:
        """One image, with its objects."""

    def __len__(self) -> int:
        """The number of images."""

    def take(self, rows: np.ndarray) -> Sequence[Sample]:
        """Returns the images of these rows."""

    def images(self) -> Iterable[Sample]:
        """Returns all images, without their objects."""

    def wide(self) -> np.ndarray:
        """Returns bool (n,): whether each image is wider than it is high."""

    def objects(self) -> Objects:
        """Returns what can be counted of all objects."""

    def mask_checksums(self) -> np.ndarray:
        """Returns int64: what `transfer.datasets.fingerprint.polygon_checksums` gives of the
        objects.
        """

    def file_names(self) -> list[str]:
        """Returns the file names of all images."""


def is_compact(samples: object) -> TypeGuard[CompactSamples]:
    """Returns whether samples are in columns."""
    return hasattr(samples, "take")


def trainable_rows(objects: Objects) -> np.ndarray:
    """Returns int64: the images with an object that can be trained on; see `Sample.trainable`."""
    return np.unique(objects.image[~objects.crowd])


def objects_of(samples: Sequence[Sample]) -> Objects:
    """Returns what can be counted of all their objects."""
    return samples.objects() if is_compact(samples) else Objects.of(samples)


def mask_checksums_of(samples: Sequence[Sample]) -> np.ndarray:
    """Returns int64: what `mask_checksums` gives of all their objects, and `keypoint_checksums`."""
    if is_compact(samples):
        return samples.mask_checksums()
    found = [instance for sample in samples for instance in sample.instances]
    masks = mask_checksums([i.polygons for i in found], [i.rle for i in found])
    return masks ^ keypoint_checksums([i.keypoints for i in found])


def object_labels_of(
    samples: Sequence[Sample], objects: Objects, names: Sequence[str]
) -> ObjectLabels:
    """Returns what all their objects are annotated with, for a fingerprint."""
    return ObjectLabels(
        len(samples),
        objects.image,
        objects.boxes,
        objects.category,
        objects.crowd + 2 * objects.difficult,
        mask_checksums_of(samples),
        names,
    )


def images_of(samples: Sequence[Sample]) -> Iterable[Sample]:
    """Returns all images; those of columns without their objects, which would take gigabytes."""
    return samples.images() if is_compact(samples) else samples


def rows_of(samples: Sequence[Sample], rows: np.ndarray) -> Sequence[Sample]:
    """Returns the images of these rows, in their order."""
    return samples.take(rows) if is_compact(samples) else tuple(samples[row] for row in rows)


@dataclass(frozen=True)
class DetectionSet:
    """Is a split of a detection data set.

    `classes[i]` names category i; `category_ids[i]` is its id in a COCO file (VOC: i + 1).
    `layout` is "voc", "coco", "lvis" or "cityscapes" and decides which evaluator scores predictions
    on the set. `num_keypoints` is 0 if keypoints were not asked for; `keypoint_names` is () if no
    category names them.
    """

    name: str
    layout: str
    samples: Sequence[Sample]
    classes: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    annotation_file: Path | None = None
    num_keypoints: int = 0
    keypoint_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def origin(self) -> Origin:
        """Returns the files of the images as an origin."""
        samples = self.samples
        return Files(
            samples.file_names() if is_compact(samples) else [s.file_name for s in samples]
        )

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Returns the identity of the data."""
        objects = object_labels_of(self.samples, self.objects, self.classes)
        return fingerprint_of(self.origin, objects)

    def limited(self, count: int) -> DetectionSet:
        """Returns the first `count` images that can be trained on (0: all images)."""
        if count <= 0:
            return self
        return self.part(self.trainable_rows()[:count])

    def has_run_lengths(self) -> bool:
        """Returns whether the mask of an object that can be trained on is not a polygon."""
        return bool((self.objects.rle & ~self.objects.crowd).any())

    @cached_property
    def objects(self) -> Objects:
        """Returns the columns of all objects, from which they can be counted."""
        return objects_of(self.samples)

    def trainable_rows(self) -> np.ndarray:
        """Returns int64: the images with an object that can be trained on; see
        `Sample.trainable`.
        """
        return trainable_rows(self.objects)

    def part(self, rows: np.ndarray) -> DetectionSet:
        """Returns the images of these rows, in their order."""
        return replace(self, samples=rows_of(self.samples, rows))

    def wide(self) -> list[bool]:
        """Returns whether each image is wider than it is high."""
        if is_compact(self.samples):
            return self.samples.wide().tolist()
        return [sample.width > sample.height for sample in self.samples]
