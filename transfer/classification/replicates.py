"""Bootstrap replicates of a trial's metrics, computed from the outcome on each test image.

Legend: M test images, C classes, W draws (columns of the replicates' weights).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from transfer.classification.score import Outcomes
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes, reweighted_ap

ELEVEN_POINTS = np.linspace(0, 1, 11)  # recalls of VOC2007's AP


def draw_replicates(
    outcomes: Outcomes, names: Sequence[str], metrics: Mapping[str, float], draws: int
) -> Replicates | None:
    """Returns replicates of every metric that has outcomes; None if none has, or for 0 draws.

    Args:
        names: names of the M test images. If they are paths, their common beginning is not a part
            of an image's id, so two machines draw the same images.
        metrics: the trial's metrics, which the outcomes must reproduce.
    """
    kinds = (outcomes.correct, outcomes.by_class, outcomes.ranked, outcomes.ranked_11point)
    if not draws or not any(kinds):
        return None
    start = len(os.path.commonprefix(list(names)))
    ids = [name[start:] for name in names]
    replicates = Replicates.draw(ids, draws)
    rows = replicates.rows(ids)
    weights = replicates.weights[rows]
    for name, correct in outcomes.correct.items():
        replicates.add({name: 100.0 * (np.asarray(correct, np.int64) @ weights) / len(ids)})
    for name, (correct, labels) in outcomes.by_class.items():
        replicates.add({name: _mean_per_class(correct, labels, weights)})
    for levels, ranked in ((None, outcomes.ranked), (ELEVEN_POINTS, outcomes.ranked_11point)):
        for name, (scores, targets) in ranked.items():
            found = keep_classes(_average_precisions(scores, targets, weights, levels))
            replicates.add({name: 100.0 * found.mean(axis=0)})
    replicates.check(dict(metrics))
    return replicates


def average_precisions(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns VOC2007's 11-point AP of each class in percent, (C,); NaN without a present image.

    Args:
        scores: (M, C); targets: (M, C), 1 present, 0 absent, -1 left out.
    """
    once = np.ones((len(scores), 1), np.int64)
    return 100.0 * _average_precisions(scores, targets, once, ELEVEN_POINTS)[:, 0]


def _average_precisions(
    scores: np.ndarray, targets: np.ndarray, weights: np.ndarray, levels: np.ndarray | None
) -> np.ndarray:
    """Returns the AP of each class in [0, 1] under each draw, (C, W); see `reweighted_ap`."""
    values = []
    for c in range(targets.shape[1]):
        kept = np.flatnonzero(targets[:, c] != -1)
        order = kept[np.argsort(scores[kept, c])[::-1]]  # as `protocols.svm.average_precision` does
        present = targets[:, c] == 1
        right = present[order][None]
        counted = np.ones_like(right)
        positives = present.astype(np.int64)
        values.append(reweighted_ap(order, right, counted, positives, weights, levels))
    return np.concatenate(values)


def _mean_per_class(correct: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mean over classes of their accuracy in percent under each draw, (W,)."""
    members = np.unique(labels)[:, None] == labels  # (C, M), of the classes with images
    total = members.astype(np.int64) @ weights
    right = (members & correct).astype(np.int64) @ weights
    shares = np.divide(100.0 * right, total, out=np.full(total.shape, np.nan), where=total > 0)
    return keep_classes(shares).mean(axis=0)
