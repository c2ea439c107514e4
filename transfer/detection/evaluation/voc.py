"""Pascal VOC average precision, with the semantics of Detectron2's evaluator.

There is one Predictions per image. Results are {"bbox/AP", "bbox/AP50", "bbox/AP75"} and AP per
class, in percent; AP is the mean over IoU .50, .55, ..., .95.

Boxes go back to VOC's convention here (x1 and y1 + 1: 1-based, inclusive; the inverse of
`transfer/datasets/voc.py`), and areas count pixels. By default detections are rounded as
Detectron2's text files do, scores to 3 and coordinates to 1 decimals, because published numbers
were made so (evaluation/pascal_voc_evaluation.py); `exact` leaves that out and sorts stably.

Legend: d detections of a class over all images, g objects of a class in one image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.samples import DetectionSet
from transfer.detection.evaluation.pr_curves import RECALL, PrecisionRecall, interpolate
from transfer.detection.evaluation.predictions import Predictions
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, reweighted_ap

THRESHOLDS = tuple(range(50, 100, 5))  # IoU in percent
COLUMNS = {"bbox/AP": slice(None), "bbox/AP50": slice(0, 1), "bbox/AP75": slice(5, 6)}
LEVELS = np.arange(0.0, 1.1, 0.1)  # the recalls of VOC2007's AP


def evaluate_voc(
    dataset: DetectionSet,
    predictions: Sequence[Predictions],
    *,
    metric: int,
    exact: bool = False,
    replicates: Replicates | None = None,
    pr_curves: PrecisionRecall | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class) in percent; a class without detections has AP 0.

    `metric` is 2007 (11-point AP) or 2012 (area under the precision envelope). Predictions are
    taken in the order given, which decides between equal scores. `replicates`, drawn from these
    images, collects the metrics under its weights, and `pr_curves` collects precision by recall.
    Raises InputError for a different metric.
    """
    if metric not in (2007, 2012):
        raise InputError(f"TRANSFER.VOC_METRIC must be 2007 or 2012, got {metric}")
    table = np.zeros((len(dataset.classes), len(THRESHOLDS)))
    precisions = np.zeros((len(THRESHOLDS), len(RECALL), len(dataset.classes)))
    drawn, findings = [], Findings(dataset.name)
    for category, name in enumerate(dataset.classes):
        truth = _truth(dataset, category)
        if not any(len(entry["boxes"]) for entry in truth.values()):
            findings.note("classes have no object to find, and their AP counts as 0", name)
        objects = [int((~entry["difficult"]).sum()) for entry in truth.values()]
        nearest = _nearest(*_detections(predictions, category, exact), truth)
        outcomes = [_outcomes(nearest, truth, percent / 100.0) for percent in THRESHOLDS]
        curves = [_curve(*outcome, sum(objects)) for outcome in outcomes]
        table[category] = [100.0 * average_precision(*curve, metric) for curve in curves]
        precisions[:, :, category] = [interpolate(*curve) for curve in curves]
        if replicates is not None:
            positives = np.zeros(len(replicates.weights), np.int64)
            positives[replicates.rows(list(truth))] = objects
            images = replicates.rows([image_id for image_id, *_ in nearest])
            drawn.append(_draws(images, outcomes, positives, metric, replicates.weights))
    findings.report()
    if replicates is not None:
        values = 100.0 * np.array(drawn)
        replicates.add({name: values[:, part].mean((0, 1)) for name, part in COLUMNS.items()})
    if pr_curves is not None:
        pr_curves.add("bbox", precisions, dataset.classes)
    return _summary(table, dataset.classes)


def average_precision(recall: np.ndarray, precision: np.ndarray, metric: int) -> float:
    """Returns the AP, in [0, 1], of a curve in order of increasing recall.

    Args:
        recall, precision: (d,) each; recall is NaN if there are no objects, and the AP is then 0.
        metric: 2007 for the mean precision at 11 recalls, 2012 for the area under the curve.
    """
    if metric == 2007:
        total = 0.0
        for level in LEVELS:
            reached = recall >= level
            total += (np.max(precision[reached]) if reached.any() else 0.0) / 11.0
        return float(total)
    if np.isnan(recall).any():
        return 0.0
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.concatenate([[0.0], precision, [0.0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.where(recall[1:] != recall[:-1])[0]
    return float(np.sum((recall[steps + 1] - recall[steps]) * envelope[steps + 1]))


def _summary(
    table: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    metrics = {name: float(table[:, part].mean()) for name, part in COLUMNS.items()}
    per_class = {
        name: {label: float(row[part].mean()) for label, row in zip(classes, table)}
        for name, part in COLUMNS.items()
    }
    return metrics, per_class


def _truth(dataset: DetectionSet, category: int) -> dict[int | str, dict[str, np.ndarray]]:
    """Returns by image_id the boxes (g, 4) in VOC's convention, and difficult (g,)."""
    truth = {}
    for sample in dataset.samples:
        kept = [i for i in sample.instances if i.category == category]
        boxes = np.array([i.box for i in kept], dtype=np.float64).reshape(-1, 4)
        boxes[:, :2] += 1.0
        difficult = np.array([i.difficult for i in kept], dtype=bool)
        truth[sample.image_id] = {"boxes": boxes, "difficult": difficult}
    return truth


def _detections(
    predictions: Sequence[Predictions], category: int, exact: bool
) -> tuple[list[int | str], np.ndarray]:
    """Returns image ids and boxes (d, 4) of one class, by descending score."""
    ids: list[int | str] = []
    scores: list[float] = []
    rows: list[list[float]] = []
    for prediction in predictions:
        chosen = prediction.classes == category
        boxes = prediction.boxes[chosen].astype(np.float32)
        boxes[:, :2] += 1.0
        ids.extend([prediction.image_id] * len(boxes))
        scores.extend(prediction.scores[chosen].tolist())
        rows.extend(boxes.tolist())
    if not exact:
        scores = [float(f"{score:.3f}") for score in scores]
        rows = [[float(f"{value:.1f}") for value in row] for row in rows]
    # The default sort is not stable. Detectron2 uses it, and the order of the many equal rounded
    # scores changes the last digits of AP. The same call gives the same numbers.
    order = np.argsort(-np.array(scores), kind="stable" if exact else None)
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)[order]
    return [ids[i] for i in order], boxes


def _nearest(
    ids: Sequence[int | str], boxes: np.ndarray, truth: Mapping[int | str, Mapping[str, np.ndarray]]
) -> list[tuple[int | str, int, float]]:
    """Returns for each detection the image, the object that overlaps most (-1: none), and its
    IoU.
    """
    best, overlap = np.full(len(ids), -1), np.zeros(len(ids))
    places = defaultdict(list)
    for place, image_id in enumerate(ids):
        places[image_id].append(place)
    for image_id, mine in places.items():
        objects = truth[image_id]["boxes"]
        if len(objects):
            overlaps = _overlaps(boxes[mine][:, None], objects)
            best[mine], overlap[mine] = overlaps.argmax(axis=1), overlaps.max(axis=1)
    return list(zip(ids, best.tolist(), overlap.tolist()))


def _outcomes(
    nearest: Sequence[tuple[int | str, int, float]],
    truth: Mapping[int | str, Mapping[str, np.ndarray]],
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns 1 for a hit, 1 for a miss of each detection, both (d,); neither: the object is
    difficult.
    """
    hits, misses = np.zeros(len(nearest)), np.zeros(len(nearest))
    used = set()
    for i, (image_id, best, overlap) in enumerate(nearest):
        if best < 0 or not overlap > threshold:
            misses[i] = 1.0
        elif truth[image_id]["difficult"][best]:
            continue  # the detection is neither right nor wrong, and the object stays free
        elif (image_id, best) in used:
            misses[i] = 1.0
        else:
            hits[i] = 1.0
            used.add((image_id, best))
    return hits, misses


def _curve(hits: np.ndarray, misses: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns recall and precision after each detection, both (d,)."""
    hits, misses = np.cumsum(hits), np.cumsum(misses)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / float(positives) if positives else np.full(len(hits), np.nan)
    return recall, hits / np.maximum(hits + misses, np.finfo(np.float64).eps)


def _draws(
    images: np.ndarray,
    outcomes: Sequence[tuple[np.ndarray, np.ndarray]],
    positives: np.ndarray,
    metric: int,
    weights: np.ndarray,
) -> np.ndarray:
    """Returns AP in [0, 1] of one class by threshold and draw; 0 for a class without objects.

    images: row in `weights` of each detection; outcomes: hits and misses at each threshold;
    positives: objects in each image.
    """
    levels = LEVELS if metric == 2007 else None
    hits, misses = (np.array(values) > 0 for values in zip(*outcomes))
    values = reweighted_ap(images, hits, hits | misses, positives, weights, levels)
    return np.nan_to_num(keep_classes(values))


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the IoU (k, g) of boxes (k, 1, 4) with (g, 4), all 1-based and inclusive."""
    low = np.maximum(boxes[..., :2], others[:, :2])
    high = np.minimum(boxes[..., 2:], others[:, 2:])
    shared = np.maximum(high - low + 1.0, 0.0).prod(axis=-1)
    area = (boxes[..., 2:] - boxes[..., :2] + 1.0).prod(axis=-1)
    areas = (others[:, 2:] - others[:, :2] + 1.0).prod(axis=-1)
    union = area + areas - shared  # 0 of two boxes without area
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
