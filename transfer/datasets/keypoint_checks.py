"""Whether the keypoints of a data set can be trained on and scored: what is said before a run.

A reader gives the keypoints of each object of a file to a PlaceCheck. The other checks judge an
opened set. How keypoints are written in a file: `keypoints.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.findings import Findings
from transfer.datasets.box_checks import TOLERANCE_PX, RelativeCheck
from transfer.datasets.keypoints import flip_order, labelled
from transfer.datasets.samples import DetectionSet, Sample

BEYOND = (
    "objects have labelled keypoints outside their image: these are not trained on, and are scored "
    "as annotated"
)
RELATIVE = "all labelled keypoints are within 1 px of the corner: relative coordinates?"


class PlaceCheck:
    """Notices keypoints that cannot be where they are annotated, in all objects of one file.

    Args:
        findings: takes what is found.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._relative = RelativeCheck(findings, RELATIVE)

    def add(self, where: str, keypoints: Sequence[float], width: int, height: int) -> None:
        """Takes the keypoints of an object, as annotated; width, height: its image's size in px."""
        points = np.reshape(keypoints, (-1, 3))
        points = points[points[:, 2] > 0, :2]
        if not len(points):
            return
        most = (width + TOLERANCE_PX, height + TOLERANCE_PX)
        outside = points[((points < -TOLERANCE_PX) | (points > most)).any(axis=1)]
        if len(outside):
            x, y = outside[0]
            self._findings.note(BEYOND, f"{where} ({x:g}, {y:g}) in {width} x {height}")
        self._relative.add(
            lambda: f"{where} ({points[0, 0]:g}, {points[0, 1]:g})",
            points.ravel(),
            float(abs(points).max()),
            min(width, height),
        )

    def finish(self) -> None:
        """Reports what was counted. Call it after the last object, before the findings report."""
        self._relative.finish()


def check_keypoints(data: DetectionSet, mirrored: bool) -> None:
    """Raises InputError unless an object can be trained on, with a labelled keypoint in its image.

    Args:
        mirrored: whether images are flipped, which takes the keypoints' names.
    """
    if data.layout != "coco":
        raise InputError(
            f"{data.name} has no keypoints: MODEL.KEYPOINT_ON True needs annotations in COCO's "
            "layout"
        )
    if not any(map(labelled, data.samples)):
        raise InputError(
            f"no object of {data.name} has a labelled keypoint; annotate some, or set "
            "MODEL.KEYPOINT_ON False"
        )
    if not any(map(_any_within, data.samples)):
        raise InputError(
            f"all labelled keypoints of {data.name} are outside their images, so that none can be "
            "trained on; write x and y in pixels of the image"
        )
    if not mirrored:
        return
    if not data.keypoint_names:
        raise InputError(
            f"the categories of {data.name} name no keypoints, so that nobody knows which are "
            "swapped in a mirrored image; add 'keypoints': [NAME, ...] to them, or set "
            "INPUT.RANDOM_FLIP none"
        )
    flip_order(data.keypoint_names)


def check_scorable_keypoints(tested: DetectionSet) -> None:
    """Raises InputError unless an object of a test set has a labelled keypoint to find.

    Crowd regions are not to be found, and objects without a labelled keypoint are not scored.
    """
    objects = (i for sample in tested.samples for i in sample.instances if not i.crowd)
    if not any(v > 0 for i in objects if i.keypoints for v in i.keypoints[2::3]):
        raise InputError(
            f"no object of the test set {tested.name} has a labelled keypoint to find; there would "
            "be no keypoint score; annotate some, or set MODEL.KEYPOINT_ON False"
        )


def check_same_keypoints(trained: DetectionSet, tested: DetectionSet) -> None:
    """Raises InputError if two sets have different keypoints, or the same in a different order."""
    ours, theirs = trained.keypoint_names, tested.keypoint_names
    if ours and theirs and ours != theirs:
        raise InputError(
            f"the keypoints of {tested.name} ({', '.join(theirs)}) are not those of {trained.name} "
            f"({', '.join(ours)}); give sets of one kind, in one order"
        )


def _any_within(sample: Sample) -> bool:
    """Returns whether an object has a labelled keypoint in the image."""
    points = np.reshape([v for i in sample.instances for v in i.keypoints or ()], (-1, 3))
    within = (points[:, :2] >= 0) & (points[:, :2] <= (sample.width, sample.height))
    return bool((within.all(axis=1) & (points[:, 2] > 0)).any())
