"""Keypoints of a COCO file: how many there are, their names, and which are swapped in a mirror.

A keypoint is x, y, v: v is 0 if it is not labelled, 1 if it is labelled and hidden, 2 if it is
seen. A file's categories name them ("keypoints"). In a mirrored image a left eye is a right one:
which pairs are swapped is read from the names, which differ in left and right alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.annotation_values import read_numbers, shown
from transfer.datasets.samples import Sample

# How far off each keypoint of a person may be in COCO's metric (cocodataset.org, "Keypoint
# Evaluation"): nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles. They are
# pycocotools' own, to which a test compares them.
COCO_SIGMAS = (
    *(0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072),
    *(0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089),
)
COUNT = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS"
NOT_TRIPLES = "keypoints are not {0} times x, y, visibility ({1} {0})"
NOT_FLAT = "keypoints are not one list x, y, visibility, x, y, visibility, ..."
BAD_VISIBILITY = "visibilities of keypoints are not 0, 1 or 2"
# COCO's "left_eye", also "LeftEye", "eye LEFT", "L_Eye" and "paw.r"
_SIDE = re.compile(
    r"(?<![A-Za-z])(?:left|right|[lrLR])(?![A-Za-z])|(?:Left|Right)(?![a-z])|LEFT|RIGHT"
)
_OTHER_SIDE = {
    **{"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"},
    **{"right": "left", "Right": "Left", "RIGHT": "LEFT", "r": "l", "R": "L"},
}


def read_keypoint_names(path: Path, content: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Returns the names of the keypoints in a parsed COCO file; () if no category names them.

    Raises:
        InputError: another number than `count`, a name that is not text or is listed twice, or
            categories that name different ones.
    """
    lists = [record["keypoints"] for record in content["categories"] if record.get("keypoints")]
    if not lists:
        return ()
    first = lists[0]
    if not isinstance(first, list) or not all(isinstance(name, str) for name in first):
        raise InputError(
            f"{path}: 'keypoints' of a category is not a list of names: {shown(first)}"
        )
    if any(other != first for other in lists):
        raise InputError(
            f"{path}: its categories name different keypoints, which one head cannot find; keep "
            "the categories of one kind"
        )
    if len(first) != count:
        raise InputError(
            f"{path} names {len(first)} keypoints ({', '.join(first[:4])}...), but {COUNT} is "
            f"{count}; set it to {len(first)}"
        )
    twice = next((name for name in first if first.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: 'keypoints' of a category lists the name {shown(twice)} twice; rename one"
        )
    return tuple(first)


def read_keypoints(
    findings: Findings, where: str, value: Any, count: int
) -> tuple[float, ...] | None:
    """Returns x, y, v of each keypoint of an object, as annotated; None if it has none, or refused
    ones.
    """
    if not value:
        return None
    if isinstance(value, list) and isinstance(value[0], (list, dict)):
        findings.refuse(NOT_FLAT, f"{where} ({shown(value)})", "write them in this form")
        return None
    if not isinstance(value, list) or len(value) != 3 * count:
        what = f"{len(value)} numbers" if isinstance(value, list) else shown(value)
        kind = NOT_TRIPLES.format(count, COUNT)
        findings.refuse(kind, f"{where} ({what})", "correct the file, or set that key")
        return None
    numbers = read_numbers(findings, where, "keypoints", value)
    if numbers is None:
        return None
    if not set(numbers[2::3]) <= {0, 1, 2}:
        findings.refuse(BAD_VISIBILITY, f"{where} ({shown(value[2::3])})", "correct the file")
        return None
    return tuple(numbers)


def flip_order(names: Sequence[str]) -> tuple[int, ...]:
    """Returns, for each keypoint, the place of the keypoint that replaces it in a mirrored image:
    itself, or that of the other side.

    Raises:
        InputError: a left one without its right one, or the reverse.
    """
    other = list(map(_other_side, names))
    alone = [f"'{name}' ('{o}' is missing)" for name, o in zip(names, other) if o not in names]
    if alone:
        raise InputError(
            f"keypoints have no other side to be swapped with in a mirrored image: "
            f"{', '.join(alone)}; rename them in the categories' 'keypoints', or set "
            "INPUT.RANDOM_FLIP none"
        )
    return tuple(names.index(name) for name in other)


def flip_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the pairs of names that are swapped, each once; a side that is alone has none."""
    pairs = zip(names, map(_other_side, names))
    return [(n, o) for place, (n, o) in enumerate(pairs) if o in names[place + 1 :]]


def _other_side(name: str) -> str:
    return _SIDE.sub(lambda side: _OTHER_SIDE[side[0]], name)


def rows_with_keypoints(samples: Sequence[Sample], least: int) -> np.ndarray:
    """Returns int64: the images with `least` labelled keypoints or more, of all their objects
    together.
    """
    counts = np.array([labelled(sample) for sample in samples], np.int64)
    return np.flatnonzero(counts >= least)


def labelled(sample: Sample) -> int:
    """Returns the number of labelled keypoints of an image; those of crowd regions count, as in
    Detectron2 (data/build.py).
    """
    return sum(v > 0 for i in sample.instances if i.keypoints for v in i.keypoints[2::3])
