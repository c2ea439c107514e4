"""Scores predictions on a detection set: boxes and masks in, average precision out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrain.common.errors import InputError
from pretrain.common.safe_json import read_json
from transfer.datasets.keypoints import COCO_SIGMAS
from transfer.datasets.registry import open_sets
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.predictions import (
    Predictions,
    from_coco_results,
    to_coco_results,
)
from transfer.detection.evaluation.score import Scores, scores_of

MOST_BYTES = 2**31  # the largest file of results that is read


def evaluate(
    predictions: Iterable[Predictions | Mapping[str, Any]] | str | Path,
    dataset: str | DetectionSet,
    *,
    classes: Sequence[str] = (),
    voc_metric: int = 2007,
    max_detections: int = 100,
    oks_sigmas: Sequence[float] = (),
) -> Scores:
    """Returns the average precision in percent, as `tools/train_det.py` measures it: `.metrics` and
    `.per_class`. The metrics are COCO's or Pascal VOC's, as the data set's layout asks for.

    Args:
        predictions: what `ImageDetector.predict` returns for the same data set; or rows in
            COCO's result format (image_id, category_id, bbox [x, y, width, height] in pixels,
            score, perhaps segmentation and keypoints), of any program; or a JSON file of such rows.
            Masks and keypoints are scored if every prediction has them. In a VOC set an image's id
            is the stem of its file, a class's id is its place among `classes`, from 1.
        dataset: such as "voc:FOLDER:SPLIT", "coco:FILE.json:IMAGES" or "coco_2017_val".
        classes: the classes in the order that the predictions have them (`ImageDetector.classes`);
            (): the data set's own.
        voc_metric: for a VOC set: 2007 (11-point AP) or 2012 (area under the curve).
        max_detections: for a COCO set: the most detections of an image and class, above 100.
        oks_sigmas: for a COCO set: how far off each keypoint may be; (): COCO's own 17 numbers.

    Raises:
        InputError: the data set cannot be read, or a prediction is of an image or a class that it
            does not have.

    Example:
        >>> import transfer
        >>> detector = transfer.build_detector("digits_voc.yaml", "random", classes="0123456789")
        >>> found = detector.predict("voc:digits_voc:test")
        >>> scores = transfer.evaluate(found, "voc:digits_voc:test", classes=detector.classes)
        >>> sorted(scores.metrics), len(scores.per_class["bbox/AP"])
        (['bbox/AP', 'bbox/AP50', 'bbox/AP75'], 10)
    """
    data = dataset if isinstance(dataset, DetectionSet) else open_sets([dataset], classes)
    if isinstance(predictions, (str, Path)):
        predictions = _read_rows(Path(predictions))
    given = list(predictions)
    rows = [row for row in given if not isinstance(row, Predictions)]
    if rows and len(rows) < len(given):
        raise InputError("the predictions are partly rows of COCO's format; give one kind")
    found = from_coco_results(rows, data.category_ids) if rows else given
    found = [one for one in found if isinstance(one, Predictions)]
    _check_images(found, data)
    _check_classes(found, data)
    results = [dict(row) for row in rows] or to_coco_results(found, data.category_ids)
    with_masks = bool(found) and all(one.rles is not None for one in found)
    with_masks = with_masks and data.layout != "voc"
    with_keypoints = bool(found) and all(one.keypoints is not None for one in found)
    sigmas = _sigmas(found, oks_sigmas) if with_keypoints and data.layout == "coco" else ()
    return scores_of(
        data,
        found,
        results,
        with_masks=with_masks,
        voc_metric=voc_metric,
        max_detections=max_detections,
        oks_sigmas=sigmas,
    )


def _sigmas(found: Sequence[Predictions], given: Sequence[float]) -> tuple[float, ...]:
    """Returns a number for each keypoint of the predictions."""
    (count,) = {one.keypoints.shape[1] for one in found if one.keypoints is not None}
    sigmas = tuple(given) or COCO_SIGMAS
    if len(sigmas) != count:
        raise InputError(
            f"the predictions have {count} keypoints, and oks_sigmas {len(sigmas)} numbers: give "
            "one for each keypoint"
        )
    return sigmas


def _read_rows(path: Path) -> list[Any]:
    try:
        content = read_json(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"{os.fspath(path)} cannot be read as predictions: {error}") from error
    if not isinstance(content, list):
        raise InputError(
            f"{os.fspath(path)} is not a list of results in COCO's format; write such a list"
        )
    return content


def _check_images(predictions: Sequence[Predictions], data: DetectionSet) -> None:
    known = {sample.image_id for sample in data.samples}
    for one in predictions:
        if one.image_id not in known:
            raise InputError(
                f"a prediction names the image {one.image_id!r}, which {data.name} does not have; "
                "its ids are such as " + repr(next(iter(known), None))
            )


def _check_classes(predictions: Sequence[Predictions], data: DetectionSet) -> None:
    most = max((int(one.classes.max()) for one in predictions if len(one.classes)), default=0)
    if most >= len(data.classes):
        raise InputError(
            f"a prediction has the class number {most}, but {data.name} has {len(data.classes)} "
            "classes: give the detector's own as `classes`"
        )
