"""Scores of class maps: computes mIoU and pixel accuracy, in percent, from confusion matrices.

Legend: K classes. A confusion matrix is int64 (K, K): [i, j] counts pixels of class i that were
predicted as j; pixels without a label (255) are not counted. Matrices are summed over all images
before the division, as VOC defines its segmentation score. Names are those of Detectron2's
SemSegEvaluator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes

NAMES = ("sem_seg/mIoU", "sem_seg/fwIoU", "sem_seg/mACC", "sem_seg/pACC")


def confusion(mask: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns int64 (K, K), the number of pixels by class in `mask` (row) and in `predicted`
    (column).

    Both maps are (H, W). `predicted` has only classes; pixels of `mask` from K on do not count.
    """
    labelled = mask < num_classes
    pairs = mask[labelled].astype(np.int64) * num_classes + predicted[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def summarize(
    total: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class) of a summed confusion matrix, in percent.

    The mean IoU is over classes that occur in the masks or in the predictions; the mean accuracy is
    over those in the masks. A value without any pixel is NaN.
    """
    one = Replicates([0], np.ones((1, 1), np.int32))
    metrics = {name: float(value[0]) for name, value in draw_metrics(total[None], one).items()}
    iou, accuracy = rates(total.astype(np.float64))
    per_class = {
        "sem_seg/IoU": dict(zip(classes, iou.tolist())),
        "sem_seg/ACC": dict(zip(classes, accuracy.tolist())),
    }
    return metrics, per_class


def draw_metrics(matrices: np.ndarray, replicates: Replicates) -> dict[str, np.ndarray]:
    """Returns each metric, in percent, for each of the replicates' weights, (W,).

    matrices (n, K, K): one per image, in the order of the replicates' ids. If a draw has no pixel
    of a class, the class keeps its score on the full data.
    """
    totals = np.tensordot(replicates.weights, matrices, axes=(0, 0)).astype(np.float64)
    iou, accuracy = (keep_classes(values.T) for values in rates(totals))  # (K, W)
    labelled = totals.sum(axis=2).T
    share = _ratio(labelled, labelled.sum(axis=0))
    hits = np.diagonal(totals, axis1=1, axis2=2).sum(axis=1)
    values = (
        mean_of_present(iou),
        np.where(labelled.sum(axis=0) > 0, np.nansum(share * np.nan_to_num(iou), axis=0), np.nan),
        mean_of_present(accuracy),
        100.0 * _ratio(hits, labelled.sum(axis=0)),
    )
    return dict(zip(NAMES, values))


def rates(totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps (..., K, K) to IoU and accuracy by class, (..., K), in percent; NaN without pixels."""
    hits = np.diagonal(totals, axis1=-2, axis2=-1)
    labelled, called = totals.sum(axis=-1), totals.sum(axis=-2)
    return as_percent(hits, labelled + called - hits), as_percent(hits, labelled)


def as_percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Returns 100 * part / whole; NaN without pixels."""
    return 100.0 * _ratio(part, whole)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def mean_of_present(values: np.ndarray) -> np.ndarray:
    """Maps (K, W) to (W,): the mean over the classes of the full data, column 0."""
    present = values[~np.isnan(values[:, 0])]
    return present.mean(axis=0) if len(present) else np.full(values.shape[1], np.nan)
