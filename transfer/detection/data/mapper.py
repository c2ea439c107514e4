"""Makes one input of the detector from one annotated image.

A Sample of `transfer/datasets` becomes a dict as Detectron2's models take it: "image" uint8
(3, H, W) in INPUT.FORMAT order, "height" and "width" of the original image, "image_id",
"file_name"; for training also "boxes" float32 (n, 4) XYXY in resized pixels, "classes" int64 (n,)
and, with masks, "polygons" (n lists of float64 arrays x, y, x, y, ...) or "bitmasks" bool
(n, H, W), with keypoints "keypoints" float32 (n, K, 3): x, y, visibility. Semantics of Detectron2's
DatasetMapper: crowd regions are dropped, boxes clipped, objects without area filtered, polygons
left unclipped, keypoints outside the image no longer labelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pretrain.common.errors import InputError
from transfer.datasets.samples import Instance, Sample
from transfer.detection.data.crop import CroppedSpec
from transfer.detection.data.jitter import JitterSpec
from transfer.detection.data.transforms import Geometry, GeometrySpec, ordered, read_image

MIN_SIDE_PX = 1e-5  # boxes with a shorter side are dropped (detection_utils.py)


@dataclass(frozen=True)
class TrainMapper:
    """Draws the geometry of a training image from (seed, position) and applies it.

    `position` counts samples since the start of training, over all processes. The geometry of an
    image depends on nothing else, so a resumed run and any number of workers get the same images.
    """

    geometry: GeometrySpec | JitterSpec | CroppedSpec
    channel_order: str
    mask_format: str | None  # "polygon", "bitmask", or None without masks
    seed: int
    # The place of each of K keypoints in a mirrored image (`flip_order`); None without keypoints
    keypoint_order: tuple[int, ...] | None = None

    def __call__(self, sample: Sample, position: int) -> dict[str, Any]:
        rng = np.random.default_rng([self.seed, position])
        pixels = read_sized(sample, self.channel_order)
        geometry = self.geometry.draw(sample.height, sample.width, rng)
        instances = [instance for instance in sample.instances if not instance.crowd]
        boxes = geometry.boxes(np.array([i.box for i in instances])).astype(np.float32)
        masks: list[Any] | None = None
        if self.mask_format == "polygon":
            masks = [_polygons(i, geometry, sample) for i in instances]
        elif self.mask_format == "bitmask":
            masks = [_bitmask(i, geometry, sample) for i in instances]
        if geometry.tightens and masks is not None:
            find = _box_of_polygons if self.mask_format == "polygon" else _box_of_bitmask
            boxes = np.array([find(mask) for mask in masks], dtype=np.float32).reshape(-1, 4)
        kept = ((boxes[:, 2:] - boxes[:, :2]) > MIN_SIDE_PX).all(axis=1)
        if masks is not None:
            # An object is dropped with its box if resizing leaves no pixel of its mask.
            kept &= np.array([_is_seen(mask) for mask in masks], dtype=bool)
            masks = [mask for mask, keep in zip(masks, kept) if keep]
        classes = np.array([i.category for i in instances], dtype=np.int64).reshape(-1)
        moved: dict[str, Any] = {"polygons": masks}
        if self.mask_format == "bitmask" and masks is not None:
            moved = {"polygons": None, "bitmasks": _stack(masks, geometry)}
        if self.keypoint_order is not None:
            keypoints = _keypoints(instances, geometry, self.keypoint_order)
            moved["keypoints"] = torch.from_numpy(keypoints.astype(np.float32)[kept])
        return {
            **_described(sample, geometry.image(pixels)),
            "boxes": torch.from_numpy(boxes[kept]),
            "classes": torch.from_numpy(classes[kept]),
            **moved,
        }


@dataclass(frozen=True)
class InferenceMapper:
    """Reads and resizes a test image; `position` is ignored.

    Raises InputError if the image does not have the annotated size.
    """

    geometry: GeometrySpec
    channel_order: str

    def __call__(self, sample: Sample, position: int) -> dict[str, Any]:
        return self._resized(sample, read_sized(sample, self.channel_order))

    def item(self, sample: Sample, pixels: np.ndarray) -> dict[str, Any]:
        """Makes the same input from an image in memory: uint8 (H, W, 3) RGB."""
        return self._resized(sample, ordered(pixels, self.channel_order))

    def _resized(self, sample: Sample, pixels: np.ndarray) -> dict[str, Any]:
        geometry = self.geometry.draw(sample.height, sample.width, np.random.default_rng(0))
        return _described(sample, geometry.image(pixels))


def read_sized(sample: Sample, channel_order: str) -> np.ndarray:
    """Returns the image's pixels; InputError if their size is not the annotated one."""
    pixels = read_image(sample.file_name, channel_order)
    if pixels.shape[:2] != (sample.height, sample.width):
        raise InputError(
            f"image {sample.file_name} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but its "
            f"annotation says {sample.width} x {sample.height}; correct one of them"
        )
    return pixels


def _described(sample: Sample, pixels: np.ndarray) -> dict[str, Any]:
    return {
        "image": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))),
        "height": sample.height,
        "width": sample.width,
        "image_id": sample.image_id,
        "file_name": sample.file_name,
    }


def _keypoints(
    instances: Sequence[Instance], geometry: Geometry, order: tuple[int, ...]
) -> np.ndarray:
    """Returns float64 (n, K, 3) in the new image; keypoints outside it, and unlabelled ones, are
    zeros.
    """
    none = (0.0,) * (3 * len(order))
    keypoints = np.array([i.keypoints or none for i in instances], np.float64)
    keypoints = keypoints.reshape(len(instances), len(order), 3)
    points = geometry.points(keypoints[..., :2]).reshape(keypoints[..., :2].shape)
    size = np.array([geometry.new_width, geometry.new_height])
    inside = ((points >= 0) & (points <= size)).all(axis=-1)
    keypoints[..., :2] = points
    keypoints[~inside | (keypoints[..., 2] == 0)] = 0
    return keypoints[:, list(order)] if geometry.flip else keypoints


def _polygons(instance: Instance, geometry: Geometry, sample: Sample) -> list[np.ndarray]:
    if instance.polygons is None:
        raise InputError(
            f"{sample.file_name} has an object whose segmentation is not a polygon; set "
            "INPUT.MASK_FORMAT bitmask for run lengths"
        )
    return geometry.polygons([np.asarray(polygon) for polygon in instance.polygons])


def _bitmask(instance: Instance, geometry: Geometry, sample: Sample) -> np.ndarray:
    """Returns bool (H, W) in the new image: polygons are moved, then filled; run lengths are
    resized.
    """
    from pycocotools import mask as mask_utils

    if instance.rle is not None:
        return geometry.mask(mask_utils.decode(instance.rle)).astype(bool)
    polygons = [p.tolist() for p in _polygons(instance, geometry, sample)]
    if not polygons:
        return np.zeros((geometry.new_height, geometry.new_width), dtype=bool)
    rles = mask_utils.frPyObjects(polygons, geometry.new_height, geometry.new_width)
    return mask_utils.decode(mask_utils.merge(rles)).astype(bool)


def _is_seen(mask: list[np.ndarray] | np.ndarray) -> bool:
    return len(mask) > 0 if isinstance(mask, list) else bool(mask.any())


def _box_of_polygons(polygons: list[np.ndarray]) -> np.ndarray:
    """Returns the box (4,) around all corners; zeros without any."""
    if not polygons:
        return np.zeros(4)
    corners = np.concatenate(polygons).reshape(-1, 2)
    return np.concatenate([corners.min(axis=0), corners.max(axis=0)])


def _box_of_bitmask(mask: np.ndarray) -> np.ndarray:
    """Returns the box (4,) around the pixels of a mask (H, W), half-open; zeros without any."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return np.zeros(4)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def _stack(masks: Sequence[np.ndarray], geometry: Geometry) -> torch.Tensor:
    if not masks:
        return torch.zeros(0, geometry.new_height, geometry.new_width, dtype=torch.bool)
    return torch.from_numpy(np.stack(masks))
