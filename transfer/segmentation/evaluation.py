"""Scores of class maps: confusion matrices in, mIoU and pixel accuracy in percent out.

K classes. A confusion matrix is int64 (K, K): [i, j] counts pixels of class i that were called j;
pixels without a label (255) count nowhere. The sums are over all images before anything is
divided, as VOC defines its segmentation score. Names are those of Detectron2's SemSegEvaluator.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REPLICATES = 200
REPLICATES_SEED = 0
NAMES = ("sem_seg/mIoU", "sem_seg/fwIoU", "sem_seg/mACC", "sem_seg/pACC")


def confusion(mask: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 (K, K) of two class maps (H, W); `predicted` holds classes only."""
    labelled = mask < num_classes
    pairs = mask[labelled].astype(np.int64) * num_classes + predicted[labelled]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def summarize(
    total: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(metrics, per_class) of a summed confusion matrix, in percent.

    The mean IoU is over classes that occur, in the masks or in the predictions; the mean accuracy
    over those in the masks. What has no pixel to divide by is NaN.
    """
    total = total.astype(np.float64)
    hits, labelled, called = np.diag(total), total.sum(axis=1), total.sum(axis=0)
    iou = 100.0 * _ratio(hits, labelled + called - hits)
    accuracy = 100.0 * _ratio(hits, labelled)
    share = _ratio(labelled, labelled.sum())
    values = (
        _mean(iou),
        float(np.nansum(share * np.nan_to_num(iou))) if labelled.sum() else float("nan"),
        _mean(accuracy),
        float(100.0 * _ratio(hits.sum(), labelled.sum())),
    )
    per_class = {
        "sem_seg/IoU": dict(zip(classes, iou.tolist())),
        "sem_seg/ACC": dict(zip(classes, accuracy.tolist())),
    }
    return dict(zip(NAMES, values)), per_class


def replicates(matrices: np.ndarray, count: int = REPLICATES) -> dict[str, list[float]]:
    """Each metric of `count` bootstrap samples of the images.

    matrices (n, K, K), one per image in the order of sorted image ids. The draws come from one
    fixed seed, so that two runs on the same images can be compared pair by pair.
    """
    rng = np.random.default_rng(REPLICATES_SEED)
    n, classes = len(matrices), [str(i) for i in range(matrices.shape[-1])]
    found: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(count):
        times = np.bincount(rng.integers(n, size=n), minlength=n)
        metrics, _ = summarize(np.tensordot(times, matrices, axes=1), classes)
        for name, value in metrics.items():
            found[name].append(value)
    return found


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
