"""The tasks by name: `TASKS`, and which of them a command's config is for.

A task's module is imported when it is asked for: it loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pretrain.common.lookup import find
from transfer.trials.task import Task


def _detection() -> Task[Any]:
    from transfer.detection.task import DetectionTask

    return DetectionTask()


def _semantic() -> Task[Any]:
    from transfer.segmentation.task import SegmentationTask

    return SegmentationTask()


def _classification() -> Task[Any]:
    from transfer.classification.task import ClassificationTask

    return ClassificationTask()


# The values of TRANSFER.TASK in the configs of train_det.
FINE_TUNING: dict[str, Callable[[], Task[Any]]] = {
    "detection": _detection,
    "semantic": _semantic,
}
TASKS = {**FINE_TUNING, "classification": _classification}


def task_of(command: str, config: str, overrides: Sequence[str] = ()) -> Task[Any]:
    """The task of a command ("det" or "cls"); a config of `det` says which one it is for.

    Nothing else of the config is checked. Raises InputError for an unknown TRANSFER.TASK.
    """
    if command == "cls":
        return TASKS["classification"]()
    from transfer.detection.config import load_merged

    named = load_merged(config, overrides).TRANSFER.TASK
    return find(named, FINE_TUNING, "task", "TRANSFER.TASK")()
