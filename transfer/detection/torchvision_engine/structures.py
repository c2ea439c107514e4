"""The few records that pass between the parts of a detector.

n ground-truth objects, r sampled boxes, k detections. Boxes are float32 XYXY; in pixels of the
network's input unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from transfer.detection.torchvision_engine.mask_targets import BitMasks, GroundTruthMasks, Polygons


@dataclass(frozen=True)
class Targets:
    """Is the ground truth of one image."""

    boxes: Tensor  # (n, 4)
    classes: Tensor  # int64 (n,)
    masks: GroundTruthMasks | None
    keypoints: Tensor | None = None  # (n, K, 3): x, y, visibility

    @staticmethod
    def from_sample(sample: Mapping[str, Any], device: torch.device) -> Targets:
        """Reads "boxes", "classes", "polygons" or "bitmasks", and "keypoints" of an element of a
        batch.
        """
        masks: GroundTruthMasks | None = None
        if sample.get("polygons") is not None:
            masks = Polygons(sample["polygons"])
        elif sample.get("bitmasks") is not None:
            masks = BitMasks(sample["bitmasks"].to(device, non_blocking=True))
        boxes, classes = (sample[key].to(device, non_blocking=True) for key in ("boxes", "classes"))
        keypoints = sample.get("keypoints")
        if keypoints is not None:
            keypoints = keypoints.to(device, non_blocking=True)
        return Targets(boxes, classes, masks, keypoints)


@dataclass(frozen=True)
class RoiSample:
    """Holds the boxes of one image on which the heads train: positives first, then background."""

    boxes: Tensor  # (r, 4)
    classes: Tensor  # int64 (r,); num_classes = background
    gt_boxes: Tensor  # (r, 4); not used for boxes of background
    gt_index: Tensor  # int64 (r,), the row of Targets
    targets: Targets
    positives: int  # known to the host: it need not ask a GPU for the rows with an object

    def foreground(self) -> RoiSample:
        """Returns the rows that hold an object."""
        return self._part(slice(self.positives), self.positives)

    def rows(self, rows: Tensor) -> RoiSample:
        """Returns these rows, int64, all of which hold an object."""
        return self._part(rows, len(rows))

    def _part(self, rows: slice | Tensor, positives: int) -> RoiSample:
        return RoiSample(
            self.boxes[rows],
            self.classes[rows],
            self.gt_boxes[rows],
            self.gt_index[rows],
            self.targets,
            positives,
        )


def foreground_rows(samples: Sequence[RoiSample]) -> Tensor:
    """Returns int64: the rows that hold an object, of all images' boxes one after the other."""
    firsts = accumulate((len(sample.boxes) for sample in samples), initial=0)
    return torch.cat(
        [
            torch.arange(first, first + sample.positives, device=sample.boxes.device)
            for first, sample in zip(firsts, samples)
        ]
    )


@dataclass(frozen=True)
class BoxTargets:
    """Holds the boxes of all images that a box head is trained on, image by image, and their
    objects.
    """

    boxes: Tensor  # (r, 4)
    classes: Tensor  # int64 (r,); num_classes = background
    gt_boxes: Tensor  # (r, 4); not used for boxes of background
    foreground: Tensor  # int64: the rows if it is not

    @staticmethod
    def of(samples: Sequence[RoiSample]) -> BoxTargets:
        """Returns those of the sampled proposals."""
        return BoxTargets(
            torch.cat([sample.boxes for sample in samples]),
            torch.cat([sample.classes for sample in samples]),
            torch.cat([sample.gt_boxes for sample in samples]),
            foreground_rows(samples),
        )


@dataclass
class Detections:
    """Holds the detections in one image, sorted by descending score."""

    boxes: Tensor  # (k, 4); in the original image's pixels once postprocessed
    scores: Tensor  # (k,) in [0, 1]
    classes: Tensor  # int64 (k,)
    masks: Tensor | None = None  # bool (k, H, W); before postprocessing probabilities (k, M, M)
    keypoints: Tensor | None = None  # (k, K, 3): x, y in pixels as the boxes', score above 0

    def __len__(self) -> int:
        return len(self.boxes)
