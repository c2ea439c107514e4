"""Makes class maps from objects: a sample of a COCO set with masks gives one class per pixel.

Category c becomes number c + 1; 0 is the background. Pixels of two objects of different classes,
and crowd regions, do not have a single class: they are ignored, as in torchvision's reference
script.
"""

from __future__ import annotations

import numpy as np

from transfer.datasets.samples import Instance, Sample

IGNORE = 255


def class_map(sample: Sample) -> np.ndarray:
    """Returns uint8 (H, W) of the complete image; objects without a mask are left out."""
    found = np.zeros((sample.height, sample.width), np.uint8)
    crowd = np.zeros(found.shape, bool)
    for instance in sample.instances:
        mask = _bitmask(instance, sample.height, sample.width)
        if instance.crowd:
            crowd |= mask
            continue
        number = instance.category + 1
        found[mask] = np.where((found[mask] == 0) | (found[mask] == number), number, IGNORE)
    found[crowd & (found == 0)] = IGNORE
    return found


def _bitmask(instance: Instance, height: int, width: int) -> np.ndarray:
    from pycocotools import mask as mask_utils

    if instance.rle is not None:
        return mask_utils.decode(instance.rle).astype(bool)
    if not instance.polygons:
        return np.zeros((height, width), bool)
    rles = mask_utils.frPyObjects(instance.polygons, height, width)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool)
