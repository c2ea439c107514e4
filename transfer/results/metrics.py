"""Metrics by their names: their order, and the headline metrics of a task, as papers print them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

ORDER = (
    *("bbox/AP", "bbox/AP50", "bbox/AP75", "segm/AP", "segm/AP50", "segm/AP75"),
    *("keypoints/AP", "keypoints/AP50", "keypoints/AP75"),
)
HEADLINES = {
    "knn": ("knn20_top1",),
    "linear": ("top1",),
    "robustness": ("top1", "mCE"),
    "logistic": ("top1", "mean_per_class", "mAP_11point"),
    "linear_crops": ("top1", "res5_top1", "res5avg_top1"),
    "finetune": ("top1",),
    "kshot": ("shots1_top1", "shots5_top1"),
    "svm": ("mAP",),
    "svm_lowshot": ("shots1_mAP", "shots96_mAP"),
    # APr, APc and APf are LVIS's, of its rare, common and frequent classes.
    "detection": (
        *("bbox/AP", "bbox/AP50", "segm/AP", "keypoints/AP"),
        *("segm/APr", "segm/APc", "segm/APf"),
    ),
    "segmentation": ("segm/AP", "bbox/AP"),
    "semantic": ("sem_seg/mIoU", "sem_seg/pACC"),
}


def is_percent(metric: str) -> bool:
    """Returns whether a metric is an accuracy or AP, for which more is better.

    `features/*` are statistics in different units. ImageNet-C's `mCE` is an error relative to
    AlexNet's: it may be above 100, and less is better.
    """
    return not metric.startswith("features/") and metric != "mCE"


def headlines(task: str, names: Iterable[str]) -> list[str]:
    """Returns the headline metrics of the task in `names`; if none, the first name in order."""
    known = sorted_metrics(names)
    return [name for name in HEADLINES.get(task, ()) if name in known] or known[:1]


def headline_texts(task: str, metrics: Mapping[str, float | None]) -> list[str]:
    """Returns ["top1 81.20", ...], the headline metrics of a record or an evaluation.

    A metric without a value (null, not a number) is left out if other headline metrics have one; if
    none has a value, the first is shown as "n/a".
    """
    known = {n: v for n, v in metrics.items() if v is not None and not math.isnan(v)}
    texts = [f"{name} {known[name]:.2f}" for name in headlines(task, known)]
    return texts or [f"{name} n/a" for name in headlines(task, metrics)[:1]]


def sorted_metrics(names: Iterable[str]) -> list[str]:
    """Returns the names with accuracies first, then the statistics features/*."""
    return sorted(set(names), key=lambda name: (not is_percent(name), _rank(name), _natural(name)))


def _rank(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _natural(name: str) -> tuple:
    """Sorts knn20_top1 between knn10_top1 and knn100_top1, and top1 of all k before top5."""
    head, _, tail = name.rpartition("_")
    digits = "".join(c for c in head if c.isdecimal())
    return tail, int(digits or 0), name
