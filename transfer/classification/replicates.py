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


def draw_replicates(
    outcomes: Outcomes, names: Sequence[str], metrics: Mapping[str, float], draws: int
) -> Replicates | None:
    """Returns replicates of every metric that has outcomes; None if none has, or for 0 draws.

    Args:
        names: names of the M test images. If they are paths, their common beginning is not a part
            of an image's id, so two machines draw the same images.
        metrics: the trial's metrics, which the outcomes must reproduce.
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
    replicates.check(dict(metrics))
    return replicates


def _mean_ap(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mAP in percent under each draw, (W,)."""
    values = []
    for c in range(targets.shape[1]):
        kept = np.flatnonzero(targets[:, c] != -1)
        order = kept[np.argsort(scores[kept, c])[::-1]]  # as `protocols.svm.average_precision` does
        present = targets[:, c] == 1
        right = present[order][None]
        counted = np.ones_like(right)
        values.append(reweighted_ap(order, right, counted, present.astype(np.int64), weights, None))
    return 100.0 * keep_classes(np.concatenate(values)).mean(axis=0)
