"""Scores of many reweighted copies of a test set at once: exact, no image is copied.

In: the outcome of every detection or prediction, and weights per image and draw. Out: one score
per draw. Weight w of an image has the effect of w copies that follow one another: w hits in a row
raise precision, so that the envelope sees their end alone, and w misses lie between two hits
wherever they are counted.

Legend: n images, W draws (columns of `weights`), d detections, m hits among them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix

Gain = Callable[[np.ndarray], np.ndarray]


def levels_gain(levels: np.ndarray) -> Gain:
    """Share of the `levels` that a recall reaches: AP as the mean over them (VOC07, COCO)."""

    def gain(recall: np.ndarray) -> np.ndarray:
        return np.searchsorted(levels, recall, side="right") / len(levels)

    return gain


def area_gain(recall: np.ndarray) -> np.ndarray:
    """AP as the area under the precision envelope (VOC12, VISSL's SVMs)."""
    return recall


def reweighted_ap(
    images: np.ndarray, right: np.ndarray, positives: np.ndarray, weights: np.ndarray, gain: Gain
) -> np.ndarray:
    """AP in [0, 1] of one class, float64 (W,); NaN in draws that hold none of its objects.

    Args:
        images: int (d,), row in `weights` of each detection, by falling score; detections that
            count neither as hit nor as miss are left out.
        right: bool (d,), whether it is a hit.
        positives: int (n,), objects of the class in each image.
        weights: int (n, W).
        gain: recall (m, W) -> share of the recall axis up to there, rising from 0 to 1.
    """
    objects = (positives @ weights).astype(np.float64)
    hits = np.flatnonzero(right)
    if not len(hits):
        return np.where(objects > 0, 0.0, np.nan)
    found = np.cumsum(weights[images[hits]], axis=0, dtype=np.float64)
    missed = np.cumsum(_between(images, right, hits, len(weights)) @ weights, axis=0)
    # 0 / 1 before the first hit of a draw: precision 0
    precision = found / np.maximum(found + missed, 1.0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = found / objects
    reached = np.diff(gain(recall), axis=0, prepend=0.0)
    return np.where(objects > 0, (reached * envelope).sum(axis=0), np.nan)


def keep_classes(table: np.ndarray) -> np.ndarray:
    """Fills, in place, what a draw does not define (NaN) with column 0, the full data's value.

    table (..., W). A mean over classes is then over the same ones in each draw.
    """
    np.copyto(table, table[..., :1], where=np.isnan(table))
    return table


def _between(images: np.ndarray, right: np.ndarray, hits: np.ndarray, n: int) -> csr_matrix:
    """(m, n): misses in each image after one hit and before the next."""
    misses = images[: hits[-1]][~right[: hits[-1]]]
    ends = np.cumsum(np.diff(hits, prepend=-1) - 1)
    return csr_matrix(
        (np.ones(len(misses), np.int32), misses, np.concatenate([[0], ends])), (len(hits), n)
    )
