"""COCO average precision of boxes and masks, by pycocotools.

In: a COCO annotation file and detections in COCO's result format. Out: {"bbox/AP", "bbox/AP50",
"bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl", "segm/..."} and AP per class, in percent. No
detections is AP 0; a size or class that no object has is NaN (pycocotools' -1), as in Detectron2
(evaluation/coco_evaluation.py).
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def evaluate_coco(
    annotation_file: Path,
    results: Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str],
    classes: dict[int, str],
    image_ids: Sequence[int] | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(metrics, per_class) in percent.

    `kinds` are of "bbox" and "segm"; `classes` maps category ids to names; `image_ids` restricts
    the evaluation (None: all images of the file).
    """
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file))
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for kind in kinds:
        evaluation = _evaluate(truth, results, kind, image_ids)
        for name, value in zip(NAMES, evaluation.stats):
            metrics[f"{kind}/{name}"] = _percent(value)
        per_class[f"{kind}/AP"] = _per_class(evaluation, classes)
    return metrics, per_class


def _evaluate(
    truth: Any, results: Sequence[dict[str, Any]], kind: str, image_ids: Sequence[int] | None
) -> Any:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, _found(truth, results, kind), kind)
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _found(truth: Any, results: Sequence[dict[str, Any]], kind: str) -> Any:
    from pycocotools.coco import COCO

    if not results:  # COCO.loadRes fails on an empty list
        found = COCO()
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
        return found
    results = copy.deepcopy(list(results))
    if kind == "segm":
        # With a box present, small / medium / large would be decided by the box's area.
        for result in results:
            result.pop("bbox", None)
    return truth.loadRes(results)


def _per_class(evaluation: Any, classes: dict[int, str]) -> dict[str, float]:
    # (IoU, recall, class, area: all, detections: 100)
    precisions = evaluation.eval["precision"][:, :, :, 0, -1]
    values = {}
    for index, category_id in enumerate(evaluation.params.catIds):
        valid = precisions[:, :, index]
        valid = valid[valid > -1]
        values[classes[category_id]] = _percent(np.mean(valid) if valid.size else -1.0)
    return values


def _percent(value: float) -> float:
    return float(value) * 100.0 if value > -1 else float("nan")
