"""The tasks by name, `TASKS`, and the choice of the task for a command's config.

A task's module loads torch, so it is imported only when the task is used.
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
    """Returns the task of a command ("det" or "cls"); for `det`, the config names the task.

    Nothing else in the config is checked. Raises InputError for an unknown TRANSFER.TASK.
    """
    if command == "cls":
        return TASKS["classification"]()
    from transfer.detection.config import load_merged

    named = load_merged(config, overrides).TRANSFER.TASK
    return find(named, FINE_TUNING, "task", "TRANSFER.TASK")()
