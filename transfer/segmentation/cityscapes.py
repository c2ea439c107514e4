"""Cityscapes' fine semantic labels: 19 classes in 7 categories, and its instance-weighted scores.

The layout is the official one: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png with
gtFine/SPLIT/CITY/*_gtFine_labelIds.png, whose pixels are label ids. Of these, 19 are the classes,
numbered as the official `trainId`; all others are void: neither trained on nor scored.

Scores are those of the official script (mcordts/cityscapesScripts 2.3.0, evaluation/
evalPixelLevelSemanticLabeling.py), in percent: mIoU over the classes (Detectron2 names it IoU;
the others have Detectron2's names), IoU_sup over the categories,
and iIoU, iIoU_sup, in which each pixel of an object counts by the mean size of its class divided by
the object's size, so that a near car does not outweigh the far ones. Objects are those of
*_gtFine_instanceIds.png: label id x 1000 + number. Groups have no number and are left out.

Legend: n images, K = 19 classes, W draws; I = 10: the 8 classes with objects, then 2 categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.results.replicates import Replicates
from transfer.results.reweighted import keep_classes
from transfer.segmentation.evaluation import as_percent, mean_of_present, rates

IGNORE = 255
IMAGE, LABELS, INSTANCES = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
NAMES = ("sem_seg/iIoU", "sem_seg/IoU_sup", "sem_seg/iIoU_sup")


class Label(NamedTuple):
    """A class: its name, its id in the files, its category, and the mean size of its objects in
    pixels (0: it has no objects), from the official script."""

    name: str
    id: int
    category: str
    size: float = 0.0


LABELS_OF_CLASSES = (
    Label("road", 7, "flat"),
    Label("sidewalk", 8, "flat"),
    Label("building", 11, "construction"),
    Label("wall", 12, "construction"),
    Label("fence", 13, "construction"),
    Label("pole", 17, "object"),
    Label("traffic light", 19, "object"),
    Label("traffic sign", 20, "object"),
    Label("vegetation", 21, "nature"),
    Label("terrain", 22, "nature"),
    Label("sky", 23, "sky"),
    Label("person", 24, "human", 3462.4756337644),
    Label("rider", 25, "human", 3930.4788056518),
    Label("car", 26, "vehicle", 12794.0202738185),
    Label("truck", 27, "vehicle", 27855.1264367816),
    Label("bus", 28, "vehicle", 35732.1511111111),
    Label("train", 31, "vehicle", 67583.7075812274),
    Label("motorcycle", 32, "vehicle", 6298.7200839748),
    Label("bicycle", 33, "vehicle", 4672.3249222261),
)
CLASSES = tuple(label.name for label in LABELS_OF_CLASSES)
CATEGORIES = tuple(dict.fromkeys(label.category for label in LABELS_OF_CLASSES))
COUNTED = tuple(k for k, label in enumerate(LABELS_OF_CLASSES) if label.size)
GROUPED = tuple(dict.fromkeys(LABELS_OF_CLASSES[k].category for k in COUNTED))
MOST_ID = 33  # of a label; 255 is -1, a license plate
_NUMBERS = np.full(256, IGNORE, np.uint8)
_NUMBERS[[label.id for label in LABELS_OF_CLASSES]] = np.arange(len(CLASSES))
_CATEGORY = np.array([CATEGORIES.index(label.category) for label in LABELS_OF_CLASSES])


class Files(NamedTuple):
    """The files of one image, CITY_SEQUENCE_FRAME."""

    image_id: str
    image: str
    labels: str
    instances: str


def read_files(folder: Path, split: str) -> list[Files]:
    """The files of a split, by name; InputError if any is missing, with the expected tree."""
    tree = (
        f"expected {folder}/{{leftImg8bit/{split}/CITY/*{IMAGE}, gtFine/{split}/CITY/*{{"
        f"{LABELS},{INSTANCES}}}}}"
    )
    images, truth = folder / "leftImg8bit" / split, folder / "gtFine" / split
    for needed in (images, truth):
        if not needed.is_dir():
            raise InputError(f"{needed} is missing; {tree}")
    found = sorted(images.glob(f"*/*{IMAGE}"))
    if not found:
        raise InputError(f"{images} has no image CITY/*{IMAGE}; {tree}")
    findings, files = Findings(str(truth)), []
    for path in found:
        stem = path.name.removesuffix(IMAGE)
        pair = [truth / path.parent.name / f"{stem}{ending}" for ending in (LABELS, INSTANCES)]
        for missing in (str(one) for one in pair if not one.is_file()):
            remedy = "unpack gtFine_trainvaltest.zip there"
            findings.refuse("files of labels are missing", missing, remedy)
        files.append(Files(stem, str(path), *map(str, pair)))
    findings.report()
    return files


def class_numbers(ids: np.ndarray, path: str) -> np.ndarray:
    """Label ids uint8 (H, W) as numbers of classes, 255 for void.

    Raises InputError for a number that is not a label's id.
    """
    wrong = np.unique(ids[(ids > MOST_ID) & (ids < IGNORE)])
    if wrong.size:
        raise InputError(
            f"mask {path} has the number {wrong[0]}, but Cityscapes' label ids are 0 to {MOST_ID}; "
            f"unpack the official *{LABELS}"
        )
    return _NUMBERS[ids]


def read_instances(path: str) -> np.ndarray:
    """Ids int (H, W) of a file of instances. Raises InputError if it is not one."""
    try:
        with Image.open(path) as image:
            ids = np.asarray(image).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): truncated or damaged; replace it"
        ) from None
    if ids.ndim != 2:
        raise InputError(f"{path} has colours, not numbers; unpack the official *{INSTANCES}")
    return ids


def weighted_pixels(instances: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """float64 (I, 2): of each class with objects, and of their categories, the weighted pixels that
    the prediction got right, and those that it missed, in one image.

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
    """The metrics NAMES, in percent, for each of the replicates' weights, (W,).

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
    """(metrics NAMES, per class or category) in percent; see `draw_cityscapes`."""
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
    """(..., K, K) to (..., 7, 7)."""
    member = (_CATEGORY[:, None] == np.arange(len(CATEGORIES))).astype(np.float64)
    return member.T @ totals @ member


def _instance_iou(totals: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(W, K, K) and (W, I, 2) to IoU (W, I) in percent; pixels falsely called so count as one."""
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
