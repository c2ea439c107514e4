"""Scores of class maps against loops over pixels and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from transfer.results.replicates import Replicates
from transfer.segmentation.evaluation import NAMES, confusion, draw_metrics, summarize


def maps(seed: int, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, classes, (13, 17)).astype(np.uint8)
    found = np.where(rng.random(mask.shape) < 0.6, mask, rng.integers(0, classes, mask.shape))
    mask[rng.random(mask.shape) < 0.2] = 255
    return mask, found.astype(np.uint8)


def test_confusion_by_a_loop() -> None:
    mask, found = maps(0)
    wanted = np.zeros((4, 4), int)
    for label, called in zip(mask.flat, found.flat):
        if label != 255:
            wanted[label, called] += 1
    assert np.array_equal(confusion(mask, found, 4), wanted)
    kept = mask != 255
    assert np.array_equal(wanted, confusion_matrix(mask[kept], found[kept], labels=range(4)))


def test_scores_are_scikit_learns_over_the_pixels_of_all_images() -> None:
    pairs = [maps(seed) for seed in range(3)]
    total = sum(confusion(mask, found, 4) for mask, found in pairs)
    metrics, per_class = summarize(total, ["a", "b", "c", "d"])
    labels = np.concatenate([mask[mask != 255] for mask, _ in pairs])
    called = np.concatenate([found[mask != 255] for mask, found in pairs])
    each = jaccard_score(labels, called, average=None)
    assert list(per_class["sem_seg/IoU"].values()) == pytest.approx(100 * each, abs=1e-9)
    assert metrics["sem_seg/mIoU"] == pytest.approx(100 * each.mean(), abs=1e-9)
    accuracy = accuracy_score(labels, called)
    assert metrics["sem_seg/pACC"] == pytest.approx(100 * accuracy, abs=1e-9)
    weighted = jaccard_score(labels, called, average="weighted")
    assert metrics["sem_seg/fwIoU"] == pytest.approx(100 * weighted, abs=1e-9)
    recalls = [(called[labels == c] == c).mean() for c in range(4)]
    assert metrics["sem_seg/mACC"] == pytest.approx(100 * np.mean(recalls), abs=1e-9)


def test_classes_that_never_occur() -> None:
    """Neither labelled nor called: no part of the mean. Called but not labelled: IoU 0."""
    metrics, per_class = summarize(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]), "abc")
    iou = per_class["sem_seg/IoU"]
    assert iou["a"] == 75.0 and iou["b"] == 0.0 and math.isnan(iou["c"])
    assert math.isnan(per_class["sem_seg/ACC"]["b"])
    assert metrics == {
        "sem_seg/mIoU": 37.5,
        "sem_seg/fwIoU": 75.0,
        "sem_seg/mACC": 75.0,
        "sem_seg/pACC": 75.0,
    }
    empty, _ = summarize(np.zeros((2, 2), int), "ab")
    assert all(math.isnan(value) for value in empty.values())


def test_replicates_are_scores_of_repeated_images() -> None:
    """A class that a draw lacks keeps its score on the full data."""
    matrices = np.stack([confusion(*maps(seed), 4) for seed in range(5)])
    matrices[1:, 3] = matrices[1:, :, 3] = 0  # the class of one image
    replicates = Replicates.draw([f"{i}" for i in range(5)], draws=60)
    replicates.add(draw_metrics(matrices, replicates))
    full, whole = summarize(matrices.sum(axis=0), "abcd")
    assert replicates.full == pytest.approx(full) and set(replicates.values) == set(NAMES)
    lacking = 0
    for draw, weights in enumerate(replicates.weights[:, 1:].T):
        copies = np.repeat(matrices, weights, axis=0)
        metrics, per_class = summarize(copies.sum(axis=0), "abcd")
        for name, kind in (("sem_seg/mIoU", "sem_seg/IoU"), ("sem_seg/mACC", "sem_seg/ACC")):
            each = [whole[kind][c] if math.isnan(v) else v for c, v in per_class[kind].items()]
            assert replicates.values[name][draw] == pytest.approx(np.mean(each), abs=1e-9)
        for name in ("sem_seg/fwIoU", "sem_seg/pACC"):
            assert replicates.values[name][draw] == pytest.approx(metrics[name], abs=1e-9)
        lacking += math.isnan(per_class["sem_seg/IoU"]["d"])
    assert lacking > 0
