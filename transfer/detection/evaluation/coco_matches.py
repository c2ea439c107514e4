"""Finds the detections that hit an object, by the rules of pycocotools' cocoeval.py (evaluateImg).

The overlaps are those of pycocotools' or faster-coco-eval's evaluation after `evaluate()`. The n-th
detections of all images and classes are matched at once, since each depends on those before it in
its image and class alone.

Legend: A area ranges, T thresholds of IoU, D detections, g objects; a pair is an image and a class,
P of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

MISS, HIT, IGNORED = 0, 1, 2
ENTRY = [("pair", int), ("score", float), ("area", float), ("crowd", bool), ("bare", bool)]

_CELLS = 2**20  # cells of one array: pairs are computed in parts that stay below this number


def entries(annotations: Any, params: Any) -> np.ndarray:
    """Returns detections or objects as ENTRY, sorted by pair, then by descending score.

    Pair k * (number of images) + i has the k-th of `params.catIds` and the i-th of `.imgIds`.
    If keypoints are scored, `bare` marks an object without a labelled keypoint.
    """
    of_keypoints = params.iouType == "keypoints"
    first = {category: k * len(params.imgIds) for k, category in enumerate(params.catIds)}
    values = [
        (
            *(first[a["category_id"]] + i, a.get("score", 0), a["area"], bool(a.get("iscrowd"))),
            of_keypoints and a.get("num_keypoints") == 0,
        )
        for i, image_id in enumerate(params.imgIds)
        for a in annotations.imgToAnns.get(image_id, ())
        if a["category_id"] in first
    ]
    table = np.array(values, ENTRY)
    return table[np.lexsort((-table["score"], table["pair"]))]


def ranks(pairs: np.ndarray) -> np.ndarray:
    """Returns for each entry the number of entries of its pair before it; `pairs` is sorted."""
    _, first, place = np.unique(pairs, return_index=True, return_inverse=True)
    return np.arange(len(pairs)) - first[place]


def uncounted(table: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Returns bool (A, D): a crowd, or bare, or its area is outside the range, of `areas` (A,
    2).
    """
    left_out = table["crowd"] | table["bare"]
    return left_out | (table["area"] < areas[:, :1]) | (table["area"] > areas[:, 1:])


def outcomes(evaluation: Any, found: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Returns int8 (A, T, D): MISS, HIT, or IGNORED if a detection or its object does not count.

    Args:
        found, objects: `entries` of the detections, not more in a pair than the evaluation uses,
            and of the objects.
    """
    params = evaluation.params
    areas, thresholds = np.asarray(params.areaRng, dtype=float), np.asarray(params.iouThrs)
    states = np.zeros((len(areas), len(thresholds), len(found)), np.int8)
    ignored = uncounted(objects, areas).T
    for pairs, rows, places in _parts(found["pair"], objects["pair"], len(areas) * len(thresholds)):
        k, i = np.divmod(pairs, len(params.imgIds))
        keys = zip(np.asarray(params.imgIds)[i].tolist(), np.asarray(params.catIds)[k].tolist())
        states[:, :, rows] = match(
            np.concatenate([evaluation.ious[key] for key in keys]),
            np.searchsorted(pairs, found["pair"][rows]),
            ignored[places].swapaxes(1, 2),
            objects["crowd"][places],
            thresholds,
        )
    states[(states == MISS) & uncounted(found, areas)[:, None]] = IGNORED
    return states


def match(
    ious: np.ndarray,
    pairs: np.ndarray,
    ignored: np.ndarray,
    crowd: np.ndarray,
    thresholds: np.ndarray,
) -> np.ndarray:
    """Returns int8 (A, T, d): MISS, HIT, or IGNORED if the matched object does not count.

    By descending score, each detection takes the free object of its pair that it overlaps most (the
    last one of equals). It takes an object that does not count only if no other one is near enough.
    Crowds stay free.

    Args:
        ious: (d, g). pairs: int (d,), sorted, in 0..P-1. ignored: bool (P, A, g). crowd: bool
            (P, g). thresholds: (T,).
    """
    size, sizes = ious.shape[1], (ignored.shape[1], len(thresholds))
    states = np.zeros((*sizes, len(ious)), np.int8)
    free = np.ones((len(crowd), *sizes, size), bool)
    least, counts = np.minimum(thresholds, 1 - 1e-10)[:, None], ~ignored[:, :, None]
    near = np.flatnonzero(ious.max(axis=1) >= least.min())
    rank = ranks(pairs[near])
    ends = np.cumsum(np.bincount(rank))[:-1]
    for rows in np.split(near[np.argsort(rank, kind="stable")], ends):
        p, overlap = pairs[rows], ious[rows, None, None]
        able = (free[p] | crowd[p, None, None]) & (overlap >= least)
        preferred = able & counts[p]
        able = np.where(preferred.any(axis=-1, keepdims=True), preferred, able)
        best = size - 1 - np.where(able, overlap, -1.0)[..., ::-1].argmax(axis=-1)
        r, a, t = np.nonzero(able.any(axis=-1))
        best = best[r, a, t]
        free[p[r], a, t, best] = False
        states[a, t, rows[r]] = np.where(ignored[p[r], a, best], IGNORED, HIT)
    return states


def _parts(
    found: np.ndarray, objects: np.ndarray, cells: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs (P,) with equally many objects, the rows of their detections and objects (P, g).

    found, objects: sorted pairs of each. cells: number of cells in an array, for each object.
    """
    pairs, first, sizes = np.unique(objects, return_index=True, return_counts=True)
    detected = np.isin(pairs, found)
    for size in np.unique(sizes[detected]):
        chosen = np.flatnonzero(detected & (sizes == size))
        parts = min(len(chosen), len(chosen) * size * cells // _CELLS + 1)
        for part in np.array_split(chosen, parts):
            low, high = (np.searchsorted(found, pairs[part], side=s) for s in ("left", "right"))
            rows = np.concatenate([np.arange(*ends) for ends in zip(low, high)])
            yield pairs[part], rows, first[part, None] + np.arange(size)
