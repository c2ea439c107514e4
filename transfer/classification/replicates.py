"""Bootstrap replicates of classification scores: outcomes per test image in, percentages out.

Legend: M test images, C classes, W draws (columns of the replicates' weights).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, reweighted_ap


@dataclass
class Outcomes:
    """What a protocol found on each test image, by metric.

    Attributes:
        correct: metric -> bool (M,); the metric is the share that is right.
        ranked: metric -> (scores (M, C), targets (M, C): 1 present, 0 absent, -1 left out); the
            metric is the mean over classes of the interpolated AP.
    """

    correct: dict[str, np.ndarray] = field(default_factory=dict)
    ranked: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def draw_replicates(
    outcomes: Outcomes, names: Sequence[str], metrics: Mapping[str, float], draws: int
) -> Replicates | None:
    """Replicates of every metric that has outcomes; None where none has, or for 0 draws.

    names: of the M test images, paths perhaps: what all begin with is no part of an id, so that
    two machines draw alike.
    """
    if not draws or not (outcomes.correct or outcomes.ranked):
        return None
    start = len(os.path.commonprefix(list(names)))
    ids = [name[start:] for name in names]
    replicates = Replicates.draw(ids, draws)
    rows = replicates.rows(ids)
    weights = replicates.weights[rows]
    for name, correct in outcomes.correct.items():
        replicates.add({name: 100.0 * (np.asarray(correct, np.int64) @ weights) / len(ids)})
    for name, (scores, targets) in outcomes.ranked.items():
        replicates.add({name: _mean_ap(scores, targets, weights)})
    replicates.check(metrics)
    return replicates


def _mean_ap(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mAP in percent under each draw, (W,)."""
    values = []
    for c in range(targets.shape[1]):
        kept = np.flatnonzero(targets[:, c] != -1)
        order = kept[np.argsort(scores[kept, c])[::-1]]  # as `svm.average_precision` ranks them
        present = targets[:, c] == 1
        right = present[order][None]
        counted = np.ones_like(right)
        values.append(reweighted_ap(order, right, counted, present.astype(np.int64), weights, None))
    return 100.0 * keep_classes(np.concatenate(values)).mean(axis=0)
