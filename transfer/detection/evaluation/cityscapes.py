"""Cityscapes' average precision of masks, as its official script computes it.

{"segm/AP", "segm/AP50"} and AP per class, in percent; AP is the mean over IoU .50, .55, ..., .95
and the 8 classes. A detection of a class and an object match if their IoU is above the threshold.
If several match one object, the one with the highest score is right. One that matches no object is
wrong, unless the share of void, groups and objects below 100 pixels in it is above the threshold.
Precision is not
interpolated: each distinct score is a point of the curve, which is summed with the recall's step on
both sides of it. A class that no object has is left out of the means.

Source: mcordts/cityscapesScripts 2.3.0, evaluation/evalInstanceLevelSemanticLabeling.py.
Bootstrap replicates are not made: no reweighted form of this curve is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pretrain.common.logs import progress
from transfer.datasets.annotation_values import Id
from transfer.datasets.cityscapes import CATEGORY_IDS, CLASSES
from transfer.datasets.cityscapes_labels import VOID
from transfer.datasets.numbered_pixels import read_instances

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
SMALLEST = 100  # number of pixels from which on an object counts
# ids from this number on are single objects, those below it are groups or stuff
FIRST_SINGLE = 1000


class Pairs(NamedTuple):
    """Holds the d detections and g objects of a class in one image.

    Attributes:
        scores: (d,). overlaps: (d, g), IoU. counted: bool (g,), whether an object is single and
            large enough. ignored: (d,), the share of a detection's pixels that do not count.
    """

    scores: np.ndarray
    overlaps: np.ndarray
    counted: np.ndarray
    ignored: np.ndarray


def evaluate_cityscapes(
    instance_files: Mapping[Id, Path], results: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Returns (metrics, per_class) in percent.

    Args:
        instance_files: files *_gtFine_instanceIds.png by image id.
        results: detections in COCO's result format, with run lengths.

    Raises:
        InputError: a file cannot be read.
    """
    by_image: dict[Id, list[Mapping[str, Any]]] = {image_id: [] for image_id in instance_files}
    for result in results:
        by_image[result["image_id"]].append(result)
    pairs: list[list[Pairs]] = [[] for _ in CLASSES]
    for image_id, path in progress(instance_files.items(), desc="match masks", leave=False):
        ids, found = read_instances(str(path)), by_image[image_id]
        for k, label in enumerate(CATEGORY_IDS):
            mine = [result for result in found if result["category_id"] == label]
            pairs[k].append(_pairs(ids, label, mine))
    table = np.array([[_precision(each, at) for at in THRESHOLDS] for each in pairs])
    table *= 100.0
    metrics = {"segm/AP": _mean(table), "segm/AP50": _mean(table[:, 0])}
    per_class = {
        "segm/AP": dict(zip(CLASSES, map(_mean, table))),
        "segm/AP50": dict(zip(CLASSES, table[:, 0].tolist())),
    }
    return metrics, per_class


def _pairs(ids: np.ndarray, label: int, found: Sequence[Mapping[str, Any]]) -> Pairs:
    """Returns the detections and objects of a class in an image with instance ids (H, W)."""
    from pycocotools import mask as mask_utils

    of_class = (ids == label) | (ids // FIRST_SINGLE == label)
    objects, place = np.unique(ids[of_class], return_inverse=True)
    sizes = np.bincount(place, minlength=len(objects))
    number = np.full(ids.shape, -1)
    number[of_class] = place
    void = np.isin(ids, list(VOID.values()))
    single = objects >= FIRST_SINGLE
    scores, overlaps, ignored = [], [], []
    for result in found:
        mask = mask_utils.decode(result["segmentation"]).astype(bool)
        pixels = np.count_nonzero(mask)
        if not pixels:
            continue
        inside = number[mask]
        shared = np.bincount(inside[inside >= 0], minlength=len(objects))
        scores.append(float(result["score"]))
        overlaps.append(shared / (sizes + pixels - shared))
        # As in the script, pixels of a group that is also small count twice.
        left_out = shared[~single].sum() + shared[sizes < SMALLEST].sum()
        ignored.append((np.count_nonzero(void[mask]) + left_out) / pixels)
    return Pairs(
        np.array(scores),
        np.array(overlaps).reshape(len(scores), len(objects)),
        single & (sizes >= SMALLEST),
        np.array(ignored),
    )


def _precision(images: Sequence[Pairs], threshold: float) -> float:
    """Returns AP in [0, 1] of one class over all images; NaN if it has no object."""
    if not any(one.counted.any() for one in images):
        return float("nan")
    if not any(len(one.scores) for one in images):
        return 0.0
    right: list[float] = []
    wrong: list[float] = []
    missed = 0
    for one in images:
        near = one.overlaps > threshold
        for column in near.T[one.counted]:
            matched = np.sort(one.scores[column])
            right.extend(matched[-1:])
            wrong.extend(matched[:-1])
            missed += not len(matched)
        alone = ~near.any(axis=1) & (one.ignored <= threshold)
        wrong.extend(one.scores[alone])
    scores = np.array([*right, *wrong])
    order = np.argsort(scores)
    hits = np.concatenate([np.ones(len(right)), np.zeros(len(wrong))])[order]
    _, first = np.unique(scores[order], return_index=True)
    below = np.concatenate([[0.0], np.cumsum(hits)])[first]  # number of hits with a lower score
    taken = len(right) - below
    precision = np.append(taken / (len(scores) - first), 1.0)
    recall = np.append(taken / (len(right) + missed), 0.0)
    # Half of the distance between the points before and after; the first and the last are repeated.
    padded = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ (0.5 * (padded[:-2] - padded[2:])))


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
