"""Cityscapes' fine semantic labels: 19 classes in 7 categories, and its instance-weighted scores.

The layout is the official one: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with
gtFine/SPLIT/CITY/*_gtFine_labelIds.png, whose pixels are label ids. Of these, 19 are the classes,
numbered as the official `trainId`; all others are void: they are neither trained on nor scored.

Scores are those of the official script (mcordts/cityscapesScripts 2.3.0, evaluation/
evalPixelLevelSemanticLabeling.py), in percent: mIoU over the classes (Detectron2 names it IoU; the
others have Detectron2's names), IoU_sup over the categories, and iIoU and iIoU_sup, in which each
pixel of an object counts by the mean size of its class divided by the object's size, so a near car
does not outweigh the far ones. Objects are those of *_gtFine_instanceIds.png: label id x 1000 +
number. Groups have no number and are left out.

Legend: n images, K = 19 classes, W draws; I = 10: the 8 classes with objects, then 2 categories.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain.common.errors import InputError
from transfer.datasets.cityscapes_labels import LABELS, LABELS_OF_CLASSES, MOST_ID
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes
from transfer.segmentation.evaluation import as_percent, mean_of_present, rates

IGNORE = 255
NAMES = ("sem_seg/iIoU", "sem_seg/IoU_sup", "sem_seg/iIoU_sup")
CLASSES = tuple(label.name for label in LABELS_OF_CLASSES)
CATEGORIES = tuple(dict.fromkeys(label.category for label in LABELS_OF_CLASSES))
COUNTED = tuple(k for k, label in enumerate(LABELS_OF_CLASSES) if label.size)
GROUPED = tuple(dict.fromkeys(LABELS_OF_CLASSES[k].category for k in COUNTED))
_NUMBERS = np.full(256, IGNORE, np.uint8)
_NUMBERS[[label.id for label in LABELS_OF_CLASSES]] = np.arange(len(CLASSES))
_CATEGORY = np.array([CATEGORIES.index(label.category) for label in LABELS_OF_CLASSES])


def class_numbers(ids: np.ndarray, path: str) -> np.ndarray:
    """Returns the numbers of classes for label ids, both uint8 (H, W); 255 is void.

    Raises InputError for a number that is not a label's id.
    """
    wrong = np.unique(ids[(ids > MOST_ID) & (ids < IGNORE)])
    if wrong.size:
        raise InputError(
            f"mask {path} has the number {wrong[0]}, but Cityscapes' label ids are 0 to {MOST_ID}; "
            f"unpack the official *{LABELS}"
        )
    return _NUMBERS[ids]


def weighted_pixels(instances: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns the weighted pixels of one image, float64 (I, 2), of each class with objects and of
    their categories: those that the prediction got right, and those that it missed.

    Args:
        instances: ids (H, W). predicted: numbers of classes (H, W).
    """
    found = np.zeros((len(COUNTED) + len(GROUPED), 2))
    objects = instances > 1000
    ids, place = np.unique(instances[objects], return_inverse=True)
    numbers = _NUMBERS[np.clip(ids // 1000, 0, IGNORE)]
    sizes, called = np.bincount(place, minlength=len(ids)), predicted[objects]
    for i, number in enumerate(numbers):
        if number not in COUNTED:
            continue
        label, mine = LABELS_OF_CLASSES[number], called[place == i]
        category = len(COUNTED) + GROUPED.index(label.category)
        hits = np.count_nonzero(mine == number)
        both = np.count_nonzero(_CATEGORY[mine] == _CATEGORY[number])
        weight = label.size / sizes[i]
        found[COUNTED.index(number)] += weight * np.array([hits, sizes[i] - hits])
        found[category] += weight * np.array([both, sizes[i] - both])
    return found


def draw_cityscapes(
    matrices: np.ndarray, weighted: np.ndarray, replicates: Replicates
) -> dict[str, np.ndarray]:
    """Returns the metrics NAMES, in percent, for each of the replicates' weights, (W,).

    matrices: (n, K, K). weighted: (n, I, 2), `weighted_pixels`; both in the order of the ids.
    """
    totals = np.tensordot(replicates.weights, matrices, axes=(0, 0)).astype(np.float64)
    pixels = np.tensordot(replicates.weights.astype(np.float64), weighted, axes=(0, 0))
    grouped, by_object = _by_category(totals), _instance_iou(totals, pixels)
    values = (by_object[:, : len(COUNTED)], rates(grouped)[0], by_object[:, len(COUNTED) :])
    means = (mean_of_present(keep_classes(value.T.copy())) for value in values)
    return dict(zip(NAMES, means))


def summarize_cityscapes(
    matrices: np.ndarray, weighted: np.ndarray
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics NAMES, per class or category) in percent; see `draw_cityscapes`."""
    total, pixels = matrices.sum(axis=0).astype(np.float64)[None], weighted.sum(axis=0)[None]
    one = Replicates(list(range(len(matrices))), np.ones((len(matrices), 1), np.int32))
    metrics = draw_cityscapes(matrices, weighted, one)
    by_object = _instance_iou(total, pixels)[0].tolist()
    per_class = {
        "sem_seg/iIoU": _named([CLASSES[k] for k in COUNTED], by_object[: len(COUNTED)]),
        "sem_seg/IoU_sup": _named(CATEGORIES, rates(_by_category(total))[0][0].tolist()),
        "sem_seg/iIoU_sup": _named(GROUPED, by_object[len(COUNTED) :]),
    }
    return {name: float(value[0]) for name, value in metrics.items()}, per_class


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(names, values))


def _by_category(totals: np.ndarray) -> np.ndarray:
    """Maps confusion matrices (..., K, K) of the classes to (..., 7, 7) of the categories."""
    member = (_CATEGORY[:, None] == np.arange(len(CATEGORIES))).astype(np.float64)
    return member.T @ totals @ member


def _instance_iou(totals: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Maps (W, K, K) and (W, I, 2) to IoU (W, I) in percent; a false positive has weight 1."""
    grouped = _by_category(totals)
    false = [
        (matrix.sum(axis=1) - np.diagonal(matrix, axis1=1, axis2=2))[:, places]
        for matrix, places in (
            (totals, list(COUNTED)),
            (grouped, [CATEGORIES.index(name) for name in GROUPED]),
        )
    ]
    hits, misses = pixels[..., 0], pixels[..., 1]
    return as_percent(hits, hits + misses + np.concatenate(false, axis=1))
