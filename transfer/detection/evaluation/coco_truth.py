"""The objects of a COCO file in the evaluators' form, under ids of our own.

The form is pycocotools' (or faster-coco-eval's) object of annotations. Images, categories and
annotations are numbered 1, 2, ... in the order of the file's ids, so no id of the file can mean "no
match" (as 0 does for the evaluators) or have a type on which an evaluator fails. Boxes and areas
are the annotated ones in float64: the scores are those of pycocotools if it can read the file.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.annotation_values import Id, find_id
from transfer.datasets.coco import read_instances
from transfer.datasets.coco_masks import for_evaluators
from transfer.datasets.coco_records import (
    Annotation,
    all_categories,
    read_annotations,
    read_images,
    used_categories,
)


@dataclass(frozen=True)
class Truth:
    """Holds the ground truth in COCO's form, with ids that count from 1.

    Attributes:
        dataset: the content of COCO's file, with our ids.
        images, categories: the file's own ids, in the order of ours.
    """

    dataset: dict[str, Any]
    images: tuple[Id, ...]
    categories: tuple[Id, ...]

    def as_object(self, library: type) -> Any:
        """Returns an object of a library's COCO class."""
        return as_object(library, self.dataset)

    def image_numbers(self, image_ids: Iterable[Id]) -> list[int]:
        """Returns our ids of images. Raises InputError for one that the file does not list."""
        known = _numbered(self.images)
        numbers = []
        for image_id in image_ids:
            number = _number(image_id, known)
            if number is None:
                raise InputError(f"image {image_id!r} is scored, but the test set does not list it")
            numbers.append(number)
        return numbers

    def results(self, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Returns detections under our ids, without those of categories that the file does not
        have.
        """
        categories = _numbered(self.categories)
        images = self.image_numbers(result["image_id"] for result in results)
        found = []
        for image, result in zip(images, results):
            category = _number(result["category_id"], categories)
            if category is not None:
                found.append({**result, "image_id": image, "category_id": category})
        return found


def read_truth(
    path: Path,
    classes: Collection[Id],
    keypoints: int = 0,
    content: Mapping[str, Any] | None = None,
) -> Truth:
    """Returns the objects of the file. Args: path: the JSON file.
        classes: its categories that are scored also if they have no object.
        keypoints: how many an object has; 0: they are not read.
        content: what the file holds, if it is not read as a COCO file.

    Raises:
        InputError: as `read_coco` does.
    """
    content = read_instances(path, keypoints > 0) if content is None else content
    findings = Findings(str(path))
    images = read_images(content, findings)
    used = used_categories(content)
    names = {key: name for key, name in all_categories(content)}
    kept = {key: name for key, name in names.items() if (key, name) in used or key in classes}
    annotations = list(
        read_annotations(content, path, images, names, findings, scored=True, keypoints=keypoints)
    )
    if findings.refused:  # notes are not repeated: they were printed when the data set was opened
        findings.report()
    order, numbers = _numbered(images), _numbered(kept)
    dataset = {
        "info": {},
        "images": [
            {"id": order[i.id], "width": i.width, "height": i.height} for i in images.values()
        ],
        "categories": [{"id": numbers[key], "name": name} for key, name in kept.items()],
        "annotations": [
            _record(number, annotation, order, numbers, keypoints)
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    return Truth(dataset, tuple(images), tuple(kept))


def as_object(library: type, dataset: dict[str, Any]) -> Any:
    """Returns an object of a library's COCO class that holds a parsed data set."""
    found = library()
    found.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        found.createIndex()
    return found


def _record(
    number: int,
    found: Annotation,
    images: Mapping[Id, int],
    categories: Mapping[Id, int],
    keypoints: int,
) -> dict[str, Any]:
    record = {
        "id": number,
        "image_id": images[found.image.id],
        "category_id": categories[found.category_id],
        "bbox": list(found.bbox),
        "area": found.area,
        "iscrowd": int(found.crowd),
    }
    if found.segmentation is not None:
        record["segmentation"] = for_evaluators(found.segmentation)
    if keypoints:
        points = found.keypoints or (0.0,) * (3 * keypoints)
        record["keypoints"] = list(points)
        record["num_keypoints"] = sum(v > 0 for v in points[2::3])
    return record


def _numbered(ids: Iterable[Id]) -> dict[Id, int]:
    return {key: number for number, key in enumerate(ids, start=1)}


def _number(reference: Id, numbers: Mapping[Id, int]) -> int | None:
    """Returns our number for a reference, whose type may differ from that of the file's id."""
    if reference in numbers:
        return numbers[reference]
    known = find_id(reference, numbers)
    return None if known is None else numbers.get(known)


def rows_of_kind(results: Sequence[Mapping[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Returns new rows for the libraries, which add keys to the rows that they get.

    Rows of masks are without boxes: otherwise the box's area would decide whether a mask is small,
    medium or large.
    """
    left = "bbox" if kind == "segm" else ""
    return [{key: value for key, value in row.items() if key != left} for row in results]


def percent(value: float) -> float:
    """Returns a score in percent; NaN for the libraries' -1, which means that there is no
    object.
    """
    return float(value) * 100.0 if value > -1 else float("nan")
