"""COCO metrics on bootstrap draws of the images, from the overlaps that an evaluator computed.

They are {"bbox/AP": (W,), ...} in percent, from pycocotools' or faster-coco-eval's evaluation after
`evaluate()`. Matches are made once (`coco_matches`) and then reweighted
(`transfer.results.reweighted`), since neither library returns its matches quickly.

Legend: K classes, A area ranges, T thresholds of IoU, W draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer.datasets.annotation_values import Id
from transfer.detection.evaluation.coco_matches import (
    HIT,
    IGNORED,
    entries,
    outcomes,
    ranks,
    uncounted,
)
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, reweighted_ap


def coco_draws(
    evaluation: Any, kind: str, replicates: Replicates, image_ids: Sequence[Id] | None = None
) -> dict[str, np.ndarray]:
    """Returns each metric in percent under each of the replicates' weights, under the evaluator's
    names.

    `image_ids`: the replicates' names of `params.imgIds`; None: they are the same.
    """
    table = keep_classes(ap_table(evaluation, replicates, image_ids))
    return _summary(100.0 * table, evaluation.params, kind)


def ap_table(
    evaluation: Any, replicates: Replicates, image_ids: Sequence[Id] | None = None
) -> np.ndarray:
    """Returns AP in [0, 1], float64 (K, A, T, W); NaN in draws without an object; see
    `coco_draws`.
    """
    params = evaluation.params
    image_ids = params.imgIds if image_ids is None else image_ids
    images, classes = len(params.imgIds), len(params.catIds)
    areas = np.asarray(params.areaRng, dtype=float)
    found, objects = (entries(a, params) for a in (evaluation.cocoDt, evaluation.cocoGt))
    found = found[ranks(found["pair"]) < params.maxDets[-1]]
    states = outcomes(evaluation, found, objects)
    weights = replicates.weights[replicates.rows(image_ids)]
    table = np.full((classes, len(areas), len(params.iouThrs), weights.shape[1]), np.nan)
    counted = ~uncounted(objects, areas)
    for k in range(classes):
        # by descending score, among equals by image, as both libraries sort them
        mine = _of_class(found, k, images)
        mine = mine[np.argsort(-found["score"][mine], kind="stable")]
        truth = _of_class(objects, k, images)
        for a in range(len(areas)):
            places = objects["pair"][truth[counted[a, truth]]] % images
            state = states[a][:, mine]
            table[k, a] = reweighted_ap(
                found["pair"][mine] % images,
                state == HIT,
                state != IGNORED,
                np.bincount(places, minlength=images),
                weights,
                np.asarray(params.recThrs),
            )
    return table


def _of_class(table: np.ndarray, k: int, images: int) -> np.ndarray:
    """Returns the rows of the entries of class k."""
    return np.arange(*np.searchsorted(table["pair"], [k * images, (k + 1) * images]))


def _summary(table: np.ndarray, params: Any, kind: str) -> dict[str, np.ndarray]:
    """Returns the six metrics of (K, A, T, W) in percent, without classes without objects (NaN)."""
    labels = {"all": "AP", "small": "APs", "medium": "APm", "large": "APl"}
    metrics = {labels[name]: table[:, a] for a, name in enumerate(params.areaRngLbl)}
    for percent in (50, 75):
        (place,) = np.flatnonzero(np.isclose(params.iouThrs, percent / 100))
        metrics[f"AP{percent}"] = metrics["AP"][:, place : place + 1]
    return {f"{kind}/{name}": _mean(values) for name, values in metrics.items()}


def _mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean (W,) of (K, T, W); NaN if no class has objects."""
    present = values[~np.isnan(values[:, 0, 0])]
    return present.mean(axis=(0, 1)) if len(present) else np.full(values.shape[-1], np.nan)
