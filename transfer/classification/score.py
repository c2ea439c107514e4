"""The result of one trial of a protocol, before it is written to the record and its artifacts.

Legend: M test images, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transfer.classification.trained_head import TrainedHead


@dataclass
class Outcomes:
    """Holds the outcome on each test image, by metric.

    Attributes:
        correct: by metric, bool (M,); the metric is the share of correct images.
        ranked: by metric, scores (M, C) and targets (M, C): 1 present, 0 absent, -1 left out; the
            metric is the mean over classes of the interpolated AP.
        ranked_11point: the same for VOC2007's AP, the mean of the precision at 11 recalls.
        by_class: by metric, bool (M,) and labels (M,); the metric is the mean over classes of the
            share of their correct images.
    """

    correct: dict[str, np.ndarray] = field(default_factory=dict)
    ranked: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    ranked_11point: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    by_class: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """Holds a protocol's result on one checkpoint.

    Attributes:
        metrics: in percent.
        per_class: {metric: {class: percent, or None if the class has no test image}}.
        curve: rows of curves.json.
        notes: content of selection.json, which says what was chosen or drawn.
        outcomes: outcome on each test image, for replicates.json.
        views: number of images passed through the backbone; None: each image of both splits once.
        seconds_before: wall-clock time of the trial before it was interrupted.
        protocol: what the record's `protocol` has in addition to the config.
        head: the trained head of `linear` or `linear_crops`, which `robustness` scores on further
            test sets.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float | None]]
    curve: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    outcomes: Outcomes = field(default_factory=Outcomes)
    views: int | None = None
    seconds_before: float = 0.0
    protocol: dict[str, Any] = field(default_factory=dict)
    head: TrainedHead | None = None
