"""COCO metrics on bootstrap draws of the images, from the overlaps that an evaluator computed.

In: pycocotools' or faster-coco-eval's evaluation after `evaluate()`. Out: {"bbox/AP": (W,), ...},
percent. Matches are made once, by the rules of pycocotools' cocoeval.py (evaluateImg), and then
reweighted (`transfer.results.reweighted`), since neither library gives them away fast.

Legend: A area ranges, T thresholds of IoU, d detections, g objects, W draws.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, levels_gain, reweighted_ap

MISS, HIT, IGNORED = 0, 1, 2
Annotations = dict[tuple[int, int], list[dict[str, Any]]]  # by image and category id


def coco_draws(evaluation: Any, kind: str, replicates: Replicates) -> dict[str, np.ndarray]:
    """Percent of each metric under each of the replicates' weights, under the evaluator's names."""
    params, weights = evaluation.params, replicates.weights
    objects = _grouped(evaluation.cocoGt, params)
    found = _grouped(evaluation.cocoDt, params)
    shape = (len(params.catIds), len(params.areaRng), len(params.iouThrs), weights.shape[1])
    table, gain = np.full(shape, np.nan), levels_gain(np.asarray(params.recThrs))
    rows = dict(zip(params.imgIds, replicates.rows(params.imgIds)))
    for k, category in enumerate(params.catIds):
        images, states = _outcomes(evaluation, category, found, objects, rows)
        for a, area in enumerate(params.areaRng):
            positives = np.zeros(len(weights), np.int64)
            for image_id in params.imgIds:
                truth = objects.get((image_id, category), ())
                positives[rows[image_id]] = sum(not _ignored(o, area) for o in truth)
            for t in range(len(params.iouThrs)):
                counted = states[a, t] != IGNORED
                right = states[a, t, counted] == HIT
                table[k, a, t] = reweighted_ap(images[counted], right, positives, weights, gain)
    return _summary(100.0 * keep_classes(table), params, kind)


def match(
    ious: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """int8 (A, T, d): MISS, HIT, or IGNORED where the matched object does not count.

    Each detection, by falling score, takes the free object that it overlaps most (the last of
    equals), one that does not count only where no other is near enough. Crowds stay free.

    Args:
        ious: (d, g). ignored: bool (A, g). crowd: bool (g,). thresholds: (T,).
    """
    states = np.zeros((len(ignored), len(thresholds), len(ious)), np.int8)
    free = np.ones((*states.shape[:2], len(crowd)), bool)
    least, counts = np.minimum(thresholds, 1 - 1e-10)[:, None], ~ignored[:, None]
    for i in np.flatnonzero(ious.max(axis=1) >= least.min()):
        able = (free | crowd) & (ious[i] >= least)
        preferred = able & counts
        able = np.where(preferred.any(axis=-1, keepdims=True), preferred, able)
        overlap = np.where(able, ious[i], -1.0)[..., ::-1]
        a, t = np.nonzero(able.any(axis=-1))
        best = len(crowd) - 1 - overlap.argmax(axis=-1)[a, t]
        free[a, t, best] = False
        states[a, t, i] = np.where(ignored[a, best], IGNORED, HIT)
    return states


def _outcomes(
    evaluation: Any,
    category: int,
    found: Annotations,
    objects: Annotations,
    rows: dict[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Row of its image (d,) and outcome (A, T, d) of each detection of a class, by falling score.

    A detection that matches nothing and has its own area outside the range does not count.
    """
    params = evaluation.params
    areas = np.asarray(params.areaRng, dtype=np.float64)
    thresholds = np.asarray(params.iouThrs)
    images, scores, sizes = [], [], []
    states = [np.zeros((len(areas), len(thresholds), 0), np.int8)]
    for image_id in params.imgIds:
        mine = found.get((image_id, category), [])
        # As both libraries sort them before they compute the overlaps
        mine = sorted(mine, key=lambda d: -d["score"])[: params.maxDets[-1]]
        if not mine:
            continue
        images += [rows[image_id]] * len(mine)
        scores += [d["score"] for d in mine]
        sizes += [d["area"] for d in mine]
        truth = objects.get((image_id, category), [])
        if truth:
            ignored = np.array([[_ignored(o, area) for o in truth] for area in params.areaRng])
            crowd = np.array([bool(o.get("iscrowd")) for o in truth])
            ious = np.asarray(evaluation.ious[image_id, category])
            states.append(match(ious, ignored, crowd, thresholds))
        else:
            states.append(np.zeros((len(areas), len(thresholds), len(mine)), np.int8))
    size, state = np.array(sizes, dtype=np.float64), np.concatenate(states, axis=2)
    outside = (size < areas[:, :1]) | (size > areas[:, 1:])
    state[(state == MISS) & outside[:, None]] = IGNORED
    order = np.argsort(-np.array(scores, dtype=np.float64), kind="stable")
    return np.array(images, dtype=np.int64)[order], state[:, :, order]


def _grouped(annotations: Any, params: Any) -> Annotations:
    groups: Annotations = defaultdict(list)
    for image_id in params.imgIds:
        for annotation in annotations.imgToAnns.get(image_id, ()):
            groups[image_id, annotation["category_id"]].append(annotation)
    return groups


def _ignored(annotation: dict[str, Any], area: tuple[float, float]) -> bool:
    return bool(annotation.get("iscrowd")) or not area[0] <= annotation["area"] <= area[1]


def _summary(table: np.ndarray, params: Any, kind: str) -> dict[str, np.ndarray]:
    """(K, A, T, W) in percent -> the six metrics; NaN of classes without objects is left out."""
    labels = {"all": "AP", "small": "APs", "medium": "APm", "large": "APl"}
    metrics = {labels[name]: table[:, a] for a, name in enumerate(params.areaRngLbl)}
    for percent in (50, 75):
        (place,) = np.flatnonzero(np.isclose(params.iouThrs, percent / 100))
        metrics[f"AP{percent}"] = metrics["AP"][:, place : place + 1]
    return {f"{kind}/{name}": _mean(values) for name, values in metrics.items()}


def _mean(values: np.ndarray) -> np.ndarray:
    """(K, T, W) -> (W,); NaN where no class has objects."""
    present = values[~np.isnan(values[:, 0, 0])]
    return present.mean(axis=(0, 1)) if len(present) else np.full(values.shape[-1], np.nan)
