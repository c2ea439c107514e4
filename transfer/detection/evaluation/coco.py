"""COCO average precision of boxes, masks and keypoints, by pycocotools or faster-coco-eval.

Detections in COCO's result format, with the ids of an annotation file, are scored against it:
{"bbox/AP", "bbox/AP50", "bbox/AP75", "bbox/APs", "bbox/APm", "bbox/APl", "segm/...",
"keypoints/..." (of which COCO has no APs)} and AP per class, in percent. Without detections AP is
0; a size or class that no object has is NaN (pycocotools' -1), as in Detectron2
(evaluation/coco_evaluation.py). faster-coco-eval (extra `fast`) matches in C++ and gives the same
numbers; tests compare all of them to 1e-9.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.installed import check_installed
from transfer.datasets.annotation_values import Id
from transfer.detection.evaluation.coco_draws import coco_draws
from transfer.detection.evaluation.coco_truth import as_object, percent, read_truth, rows_of_kind
from transfer.detection.evaluation.pr_curves import PrecisionRecall
from transfer.results.replicates import Replicates

# by name: rows of IoU (of keypoints: OKS) thresholds .50, .55, ..., and the area range
NAMES = {
    "AP": (slice(None), "all"),
    "AP50": (slice(0, 1), "all"),
    "AP75": (slice(5, 6), "all"),
    "APs": (slice(None), "small"),
    "APm": (slice(None), "medium"),
    "APl": (slice(None), "large"),
}
KEYPOINTS = "keypoints"
MOST = 100  # number of detections of an image and class that COCO's metrics use
FAST = "faster_coco_eval"
EVALUATORS = ("auto", "pycocotools", FAST)


def choose_evaluator(name: str) -> str:
    """Returns "pycocotools" or "faster_coco_eval"; "auto" takes the latter if it is installed.

    Raises InputError for an unknown name, or for faster_coco_eval if it is not installed.
    """
    if name not in EVALUATORS:
        raise InputError(
            f"TRANSFER.COCO_EVALUATOR '{name}' is unknown; known: {', '.join(EVALUATORS)}"
        )
    if name == "auto":
        return FAST if importlib.util.find_spec(FAST) else "pycocotools"
    if name == FAST:
        install = "faster-coco-eval, or set pycocotools"
        check_installed(FAST, f"TRANSFER.COCO_EVALUATOR {FAST}", install)
    return name


def evaluate_coco(
    annotation_file: Path,
    results: Sequence[dict[str, Any]],
    *,
    kinds: Sequence[str],
    classes: Mapping[Id, str],
    image_ids: Sequence[Id] | None = None,
    evaluator: str = "pycocotools",
    max_detections: int = MOST,
    oks_sigmas: Sequence[float] = (),
    replicates: Replicates | None = None,
    pr_curves: PrecisionRecall | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class) in percent.

    `kinds` are of "bbox", "segm" and "keypoints", which takes `oks_sigmas`, a number for each
    keypoint (20 detections of an image and class count at most, as COCO has it); `classes` maps the
    file's category ids to names; `image_ids` restricts the evaluation (None: all images of the
    file); `evaluator` is one of EVALUATORS; `max_detections` above 100 takes that many boxes and
    masks of an image and class, as Detectron2's `max_dets_per_image` does, fewer change nothing;
    `replicates`, drawn of these images, takes the metrics under its weights, `pr_curves` precision
    by recall.

    Raises InputError for an annotation file that cannot be scored.
    """
    coco, coco_eval = _classes_of(choose_evaluator(evaluator))
    truth = read_truth(annotation_file, classes, len(oks_sigmas))
    truth_object, numbers = truth.as_object(coco), None
    if image_ids is not None:
        numbers = truth.image_numbers(image_ids)
    found = truth.results(results)
    names = [classes[key] for key in truth.categories]
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for kind in kinds:
        evaluation = coco_eval(truth_object, _found(truth_object, found, kind), kind)
        if kind == KEYPOINTS:
            evaluation.params.kpt_oks_sigmas = np.array(oks_sigmas)
        else:
            evaluation.params.maxDets = [1, 10, max(max_detections, MOST)]
        _evaluate(evaluation, numbers)
        metrics.update({f"{kind}/{name}": value for name, value in _means(evaluation)})
        per_class[f"{kind}/AP"] = _per_class(evaluation, names)
        if replicates is not None:
            ids = [truth.images[number - 1] for number in evaluation.params.imgIds]
            replicates.add(coco_draws(evaluation, kind, replicates, ids))
        if pr_curves is not None:
            pr_curves.add(kind, _precisions(evaluation), names)
    return metrics, per_class


def _classes_of(evaluator: str) -> tuple[type, type]:
    """Returns the classes for annotations and evaluation; both libraries have the same
    interface.
    """
    if evaluator == FAST:
        from faster_coco_eval import COCO, COCOeval_faster

        # otherwise the library prints some 20 lines for each evaluation
        logging.getLogger(FAST).setLevel(logging.WARNING)
        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def _evaluate(evaluation: Any, image_ids: Sequence[int] | None) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        if image_ids is not None:
            evaluation.params.imgIds = list(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _found(truth: Any, results: Sequence[dict[str, Any]], kind: str) -> Any:
    if not results:  # COCO.loadRes fails on an empty list
        return as_object(type(truth), {**truth.dataset, "annotations": []})
    with contextlib.redirect_stdout(io.StringIO()):
        return truth.loadRes(rows_of_kind(results, kind))


def _means(evaluation: Any) -> Iterator[tuple[str, float]]:
    """Returns the means of `summarize`, which pycocotools computes for 100 detections only."""
    areas = list(evaluation.params.areaRngLbl)
    for name, (thresholds, area) in NAMES.items():
        if area in areas:
            precision = evaluation.eval["precision"][thresholds, :, :, areas.index(area), -1]
            valid = precision[precision > -1]
            yield name, percent(np.mean(valid) if valid.size else -1.0)


def _per_class(evaluation: Any, names: Sequence[str]) -> dict[str, float]:
    precisions = _precisions(evaluation)
    values = {}
    for index, name in enumerate(names):
        valid = precisions[:, :, index]
        valid = valid[valid > -1]
        values[name] = percent(np.mean(valid) if valid.size else -1.0)
    return values


def _precisions(evaluation: Any) -> np.ndarray:
    """Returns (IoU, recall, class) for all areas and most detections; -1 without objects."""
    return evaluation.eval["precision"][:, :, :, 0, -1]
