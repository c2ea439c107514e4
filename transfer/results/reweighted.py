"""Scores of many reweighted copies of a test set at once: exact, no image is copied.

From the outcome of every detection or prediction, and from weights per image and draw, they follow
as one score per draw. Weight w of an image has the effect of w copies that follow one another: w
hits in a row raise precision, so that the envelope sees their end alone, and w misses are between
two hits wherever they are counted.

Legend: n images, W draws (columns of `weights`), d detections, m hits among them, T thresholds.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

_CELLS = 2**20  # of one array: draws are taken in blocks that stay below


def reweighted_ap(
    images: np.ndarray,
    right: np.ndarray,
    counted: np.ndarray,
    positives: np.ndarray,
    weights: np.ndarray,
    levels: np.ndarray | None,
) -> np.ndarray:
    """AP in [0, 1] of one class, float64 (T, W); NaN in draws that hold none of its objects.

    Args:
        images: int (d,), row in `weights` of each detection, by falling score.
        right: bool (T, d), whether it is a hit. Each hit is an object of its own.
        counted: bool (T, d), whether it is a hit or a miss.
        positives: int (n,), objects of the class in each image.
        weights: int (n, W).
        levels: of recall, rising from 0 to 1: AP is the mean of the precision envelope over them
            (VOC07, COCO); None: the area under it (VOC12, VISSL's SVMs).
    """
    there = np.flatnonzero(positives)
    objects = positives[there] @ weights[there]
    used = np.flatnonzero(counted.any(axis=0))
    images, right, counted = images[used], right[:, used], counted[:, used]
    hits = np.flatnonzero(right.any(axis=0))
    rows = max(len(hits), (~counted).sum(axis=1).max())
    blocks = min(len(objects), rows * len(objects) // _CELLS + 1)
    parts = zip(np.array_split(objects, blocks), np.array_split(weights, blocks, axis=1))
    scores = [_block(images, right, counted, hits, *part, levels) for part in parts]
    return np.where(objects > 0, np.concatenate(scores, axis=1), np.nan)


def keep_classes(table: np.ndarray) -> np.ndarray:
    """Fills, in place, what a draw does not define (NaN) with column 0, the full data's value.

    table (..., W). A mean over classes is then over the same ones in each draw.
    """
    np.copyto(table, table[..., :1], where=np.isnan(table))
    return table


def _block(
    images: np.ndarray,
    right: np.ndarray,
    counted: np.ndarray,
    any_hits: np.ndarray,
    objects: np.ndarray,
    weights: np.ndarray,
    levels: np.ndarray | None,
) -> np.ndarray:
    """`reweighted_ap` of some draws, which have `objects` (W,); 0 without hits.

    any_hits: places of the detections that are hits at some threshold.
    """
    scores = np.zeros((len(right), len(objects)))
    if not len(any_hits):
        return scores
    # Thresholds share the sums over all detections, and each takes off those it does not count
    total = np.cumsum(_sums(images, any_hits, weights), axis=0)
    most = weights[images[any_hits]].sum(axis=0).max()
    share = _recall_shares(most, objects, levels)
    for t in range(len(right)):
        hits, out = np.flatnonzero(right[t]), np.flatnonzero(~counted[t])
        found = np.cumsum(weights[images[hits]], axis=0)
        uncounted = np.zeros((len(out) + 1, len(objects)), np.int64)
        np.cumsum(weights[images[out]], axis=0, out=uncounted[1:])
        seen = total[np.searchsorted(any_hits, hits)] - uncounted[np.searchsorted(out, hits)]
        # 0 / 1 before the first hit of a draw: precision 0
        precision = found / np.maximum(seen, 1)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        reached = share.take(found * len(objects) + np.arange(len(objects)))
        scores[t] = np.einsum("mw,mw->w", np.diff(reached, axis=0, prepend=0.0), envelope)
    return scores


def _sums(images: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights of the detections after one of the places `ends` and up to the next, (m, W)."""
    starts = np.concatenate([[0], ends + 1])
    images = images[: starts[-1]]
    ones = np.ones(len(images), weights.dtype)
    return csr_matrix((ones, images, starts), (len(ends), len(weights))) @ weights


@np.errstate(invalid="ignore", divide="ignore")
def _recall_shares(most: int, objects: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    """Share of the recall axis up to 0, 1, ..., `most` of the `objects` (W,): (most + 1, W)."""
    if levels is None:
        return np.arange(most + 1)[:, None] / objects
    need = np.ceil(levels[:, None] * objects).astype(np.int64)
    # Recall is a quotient, from which the product may be off by a rounding
    need += need / objects < levels[:, None]
    need -= (need - 1) / objects >= levels[:, None]
    cells = np.minimum(need, most + 1) * len(objects) + np.arange(len(objects))
    reached = np.bincount(cells.ravel(), minlength=(most + 2) * len(objects))
    return np.cumsum(reached.reshape(most + 2, -1)[:-1], axis=0) / len(levels)
