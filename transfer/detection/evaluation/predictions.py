"""The detections in one image, and their form in a file.

In the file they are a list of dicts in COCO's result format (boxes XYWH, masks as run lengths,
category ids of the data set, nothing rounded): `inference/coco_instances_results.json`, for VOC
data too (image_id is the file's stem).

Legend: k detections; boxes XYXY in pixels of the original image, 0-based and half-open.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.checkpoint import atomic_write_text
from pretrain.common.errors import InputError
from transfer.datasets.samples import DetectionSet

# number of decimals in COCO's result format
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Predictions:
    """Holds the detections of one image: boxes float32 (k, 4), scores (k,), classes int (k,),
    perhaps masks and keypoints.

    `rles` are compressed run lengths with text counts, ready for JSON. `keypoints` are float32
    (k, K, 3): x, y in pixels, counted as boxes are, and a score.
    """

    image_id: int | str
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    rles: list[dict[str, Any]] | None = None
    keypoints: np.ndarray | None = None


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Returns masks, bool (k, H, W), as k COCO run-length masks whose counts are text."""
    from pycocotools import mask as mask_utils

    encoded = []
    for mask in masks:
        rle = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
        encoded.append({"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")})
    return encoded


def to_coco_results(
    predictions: Iterable[Predictions], category_ids: Sequence[int | str]
) -> list[dict[str, Any]]:
    """Returns one dict per detection, images in the given order, detections in theirs."""
    results = []
    for prediction in predictions:
        boxes = np.array(prediction.boxes, dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]  # in float32, as Detectron2 converts them
        for i, (box, score) in enumerate(zip(boxes.tolist(), prediction.scores.tolist())):
            result = {
                "image_id": prediction.image_id,
                "category_id": category_ids[int(prediction.classes[i])],
                "bbox": box,
                "score": score,
            }
            if prediction.rles is not None:
                result["segmentation"] = prediction.rles[i]
            if prediction.keypoints is not None:
                # COCO names a pixel by whole numbers, whose centre is half a pixel further.
                found = prediction.keypoints[i] - np.array([0.5, 0.5, 0], np.float32)
                result["keypoints"] = found.flatten().tolist()
            results.append(result)
    return results


def from_coco_results(
    results: Sequence[Mapping[str, Any]], category_ids: Sequence[int | str]
) -> list[Predictions]:
    """Inverts `to_coco_results`: returns one Predictions per image, in the order of the results.
    Boxes are float32; the conversion to XYWH and back may change their last bit.

    Raises:
        InputError: a result lacks a key, or has a category that is not listed.
    """
    by_image: dict[int | str, list[Mapping[str, Any]]] = {}
    for place, result in enumerate(results):
        if not isinstance(result, Mapping) or not {*RESULT_KEYS} <= set(result):
            raise InputError(f"result {place} lacks one of {', '.join(RESULT_KEYS)}: {result}")
        if result["category_id"] not in category_ids:
            raise InputError(
                f"result {place} has the category_id {result['category_id']!r}, which the data set "
                "does not have; give results for this data set"
            )
        _check_keypoints(place, result, results[0])
        by_image.setdefault(result["image_id"], []).append(result)
    return [_of_image(image_id, rows, category_ids) for image_id, rows in by_image.items()]


def _check_keypoints(place: int, result: Mapping[str, Any], first: Mapping[str, Any]) -> None:
    """Raises InputError unless all results have x, y and score for the same number of keypoints."""
    if "keypoints" not in result or "keypoints" not in first:
        return
    found, others = result["keypoints"], first["keypoints"]
    if not isinstance(found, list) or not found or len(found) % 3 or len(found) != len(others):
        raise InputError(
            f"result {place} has keypoints that are not x, y, score of each of the keypoints that "
            f"the first result has: {str(found)[:60]}"
        )


def _of_image(
    image_id: int | str, rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int | str]
) -> Predictions:
    boxes = np.array([row["bbox"] for row in rows], dtype=np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    has_masks = all("segmentation" in row for row in rows)
    keypoints = None
    if all("keypoints" in row for row in rows):
        keypoints = np.array([row["keypoints"] for row in rows], np.float32)
        keypoints = keypoints.reshape(len(rows), -1, 3) + np.array([0.5, 0.5, 0], np.float32)
    return Predictions(
        image_id=image_id,
        boxes=boxes,
        scores=np.array([row["score"] for row in rows], dtype=np.float32),
        classes=np.array([category_ids.index(row["category_id"]) for row in rows], dtype=np.int64),
        rles=[row["segmentation"] for row in rows] if has_masks else None,
        keypoints=keypoints,
    )


def write_results(
    path: Path, predictions: Iterable[Predictions], dataset: DetectionSet
) -> list[dict[str, Any]]:
    """Writes and returns the COCO results of all predictions."""
    results = to_coco_results(predictions, dataset.category_ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, json.dumps(results))
    return results
