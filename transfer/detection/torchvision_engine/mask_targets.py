"""Ground-truth masks, as polygons or bitmaps, cropped to boxes: the targets of the mask head.

n objects, r boxes, M side of the mask head's output.
Specification: detectron2 `structures/masks.py` (crop_and_resize of both forms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor
from torchvision.ops import roi_align

from pretrain.common.errors import InputError


class GroundTruthMasks(Protocol):
    """Holds the masks of one image's n objects."""

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """Returns objects `index` (r,) inside boxes (r, 4), stretched to bool (r, size, size)."""


class Polygons:
    """Holds objects as lists of polygons, each float64 [x0, y0, x1, y1, ...] in input pixels."""

    def __init__(self, polygons: Sequence[Sequence[np.ndarray]]) -> None:
        """Raises InputError for RLE dictionaries: they need INPUT.MASK_FORMAT bitmask."""
        if any(isinstance(parts, dict) for parts in polygons):
            raise InputError(
                "an annotation's segmentation is RLE, not polygons; set INPUT.MASK_FORMAT bitmask"
            )
        self.polygons = polygons

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """See GroundTruthMasks; rasterised by pycocotools, on the CPU."""
        if len(boxes) == 0:
            return torch.empty(0, size, size, dtype=torch.bool, device=boxes.device)
        # Both in one copy, since each makes a GPU wait; float64 holds either as it is.
        rows = torch.cat([index[:, None].double(), boxes.double()], dim=1).cpu().numpy()
        masks = [
            rasterise(self.polygons[int(row[0])], row[1:].astype(np.float32), size) for row in rows
        ]
        return torch.from_numpy(np.stack(masks)).to(boxes.device, non_blocking=True)


class BitMasks:
    """Holds objects as bool (n, H, W) at input size."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """See GroundTruthMasks; bilinear, cut at one half."""
        # roi_align wants the image of each box: here every box has a mask of its own.
        own = torch.arange(len(boxes), device=boxes.device, dtype=boxes.dtype)[:, None]
        rois = torch.cat([own, boxes], dim=1)
        masks = self.masks[index].to(torch.float32)[:, None]
        return roi_align(masks, rois, (size, size), 1.0, 0, aligned=True).squeeze(1) >= 0.5


def rasterise(polygons: Sequence[np.ndarray], box: np.ndarray, size: int) -> np.ndarray:
    """Returns one object's polygons inside a float32 box (4,), stretched to bool (size, size).

    The zoom is computed in the box's float32 and applied in the polygons' float64: the last bit
    decides on which side of a pixel a corner falls.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    # A box without a side would zoom without bound.
    zoom_x, zoom_y = size / max(width, 0.1), size / max(height, 0.1)
    moved = []
    for polygon in polygons:
        polygon = polygon.copy()
        polygon[0::2] = (polygon[0::2] - box[0]) * zoom_x
        polygon[1::2] = (polygon[1::2] - box[1]) * zoom_y
        moved.append(polygon)
    if not moved:
        return np.zeros((size, size), dtype=bool)
    # The union: a pixel that several polygons cover belongs to the object, not to a hole.
    rle = coco_mask.merge(coco_mask.frPyObjects(moved, size, size))
    return coco_mask.decode(rle).astype(bool)
