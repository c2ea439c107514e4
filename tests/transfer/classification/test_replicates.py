"""Replicates of accuracies and of mAP against test images that are really repeated."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.classification.protocols.svm import average_precision
from transfer.classification.replicates import Outcomes, draw_replicates

NAMES = [f"/data/x/{i:02d}.jpg" for i in np.random.default_rng(9).permutation(30)]


def outcomes_of(seed: int) -> Outcomes:
    rng = np.random.default_rng(seed)
    targets = rng.choice([-1, 0, 1], size=(30, 3), p=[0.1, 0.6, 0.3])
    targets[:, 2] = 0
    targets[4, 2] = 1  # a class of one image
    scores = np.where(targets == -1, np.nan, rng.normal(size=targets.shape))
    return Outcomes({"top1": rng.random(30) < 0.6}, {"mAP": (scores, targets)})


def slow_map(scores: np.ndarray, targets: np.ndarray, whole: list[float]) -> list[float]:
    aps = []
    for c in range(targets.shape[1]):
        kept = targets[:, c] != -1
        there = targets[kept, c] == 1
        ap = 100 * average_precision(there, scores[kept, c]) if there.any() else whole[c]
        aps.append(ap)
    return aps


def test_repeated_images() -> None:
    outcomes = outcomes_of(0)
    correct, (scores, targets) = outcomes.correct["top1"], outcomes.ranked["mAP"]
    whole = slow_map(scores, targets, [])
    metrics = {"top1": 100 * correct.mean(), "mAP": float(np.mean(whole))}
    replicates = draw_replicates(outcomes, NAMES, metrics, 25)
    assert replicates.full == pytest.approx(metrics) and replicates.ids[0] == "00.jpg"
    for draw, column in enumerate(replicates.weights[:, 1:].T):
        copies = np.repeat(np.arange(30), column[[int(name[-6:-4]) for name in NAMES]])
        assert replicates.values["top1"][draw] == pytest.approx(100 * correct[copies].mean())
        expected = np.mean(slow_map(scores[copies], targets[copies], whole))
        assert replicates.values["mAP"][draw] == pytest.approx(expected, abs=1e-9)


def test_machines_draw_alike() -> None:
    metrics = {"top1": 100 * outcomes_of(1).correct["top1"].mean()}
    one, other = (
        draw_replicates(Outcomes(outcomes_of(1).correct), names, metrics, 5)
        for names in (NAMES, [name.replace("/data/x", "/home/me/sets") for name in NAMES])
    )
    assert one.ids == other.ids and np.array_equal(one.values["top1"], other.values["top1"])


def test_nothing_to_draw() -> None:
    assert draw_replicates(Outcomes(), NAMES, {}, 200) is None
    assert draw_replicates(outcomes_of(0), NAMES, {}, 0) is None
