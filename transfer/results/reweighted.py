"""Exact scores of many reweighted copies of a test set at once, without copying images.

The outcome of every detection or prediction, and weights per image and draw, give one score per
draw. An image of weight w counts as w copies of it in a row. Successive hits raise precision, so
the precision envelope depends only on the last of the w hits; the order of misses between two hits
does not matter.

Legend: n images, W draws (columns of `weights`), d detections, m hits among them, T thresholds.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

_CELLS = 2**20  # most cells of one array: draws are computed in blocks below this size


def reweighted_ap(
    images: np.ndarray,
    right: np.ndarray,
    counted: np.ndarray,
    positives: np.ndarray,
    weights: np.ndarray,
    levels: np.ndarray | None,
) -> np.ndarray:
    """Returns one class's AP in [0, 1], float64 (T, W); NaN in draws that have none of its objects.

    Args:
        images: int (d,), row in `weights` of each detection, by descending score.
        right: bool (T, d), whether it is a hit. Each hit is a different object.
        counted: bool (T, d), whether it is a hit or a miss.
        positives: int (n,), objects of the class in each image.
        weights: int (n, W).
        levels: recall levels, increasing from 0 to 1: AP is the mean of the precision envelope at
            these levels (VOC07, COCO); None: the area under it (VOC12, VISSL's SVMs).
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
    """Replaces, in place, undefined values of a draw (NaN) by column 0, the full data's value.

    table (..., W). A mean over classes then has the same classes in each draw.
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
    """Returns `reweighted_ap` of some draws, which have `objects` (W,); 0 without hits.

    any_hits: indices of the detections that are hits at any threshold.
    """
    scores = np.zeros((len(right), len(objects)))
    if not len(any_hits):
        return scores
    # Thresholds share the sums over all detections; each subtracts those it does not count
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
    """Returns the weights of the detections from one of the places `ends` to the next, (m, W)."""
    starts = np.concatenate([[0], ends + 1])
    images = images[: starts[-1]]
    ones = np.ones(len(images), weights.dtype)
    return csr_matrix((ones, images, starts), (len(ends), len(weights))) @ weights


@np.errstate(invalid="ignore", divide="ignore")
def _recall_shares(most: int, objects: np.ndarray, levels: np.ndarray | None) -> np.ndarray:
    """Returns the share of the recall axis up to 0, 1, ..., `most` objects, (most + 1, W)."""
    if levels is None:
        return np.arange(most + 1)[:, None] / objects
    need = np.ceil(levels[:, None] * objects).astype(np.int64)
    # Recall is a quotient; the product may differ from it by a rounding error
    need += need / objects < levels[:, None]
    need -= (need - 1) / objects >= levels[:, None]
    cells = np.minimum(need, most + 1) * len(objects) + np.arange(len(objects))
    reached = np.bincount(cells.ravel(), minlength=(most + 2) * len(objects))
    return np.cumsum(reached.reshape(most + 2, -1)[:-1], axis=0) / len(levels)
