"""Which of a task's metrics stand for it: those that papers print."""

from __future__ import annotations

from collections.abc import Collection

HEADLINES = {
    "knn": ("knn20_top1",),
    "linear": ("top1",),
    "linear_crops": ("top1", "res5_top1", "res5avg_top1"),
    "finetune": ("top1",),
    "kshot": ("shots1_top1", "shots5_top1"),
    "svm": ("mAP",),
    "svm_lowshot": ("shots1_mAP", "shots96_mAP"),
    "detection": ("bbox/AP", "bbox/AP50", "segm/AP"),
    "segmentation": ("segm/AP", "bbox/AP"),
    "semantic": ("sem_seg/mIoU", "sem_seg/pACC"),
}


def headlines(task: str, metrics: Collection[str]) -> list[str]:
    """Those of `metrics` that stand for the task; else the first one."""
    wanted = [name for name in HEADLINES.get(task, ()) if name in metrics]
    return wanted or list(metrics)[:1]
