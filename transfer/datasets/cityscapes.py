"""Reads the objects of Cityscapes' fine annotations, as polygons that do not overlap.

An image's file *_gtFine_polygons.json lists its objects from the back to the front. Read from the
front, each becomes what those in front of it leave visible. As in Detectron2
(data/datasets/cityscapes.py, whose reader fails outside its authors' tree), the integer corners
name centres of pixels (+ 0.5), and polygons grow by half a pixel, since the official script draws
every pixel that a border touches. Deleted objects, and those of the label with a negative id, are
left out. Objects of the label NAMEgroup, such as `cargroup`, become crowd regions. Holes are lost.

Categories are the 8 labels with objects, by their ids: person, rider, car, truck, bus, train,
motorcycle, bicycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pretrain.common.errors import InputError
from pretrain.common.logs import progress
from pretrain.common.printable import shown
from pretrain.common.safe_json import read_json
from transfer.datasets.cityscapes_labels import (
    INSTANCES,
    LABELS_OF_CLASSES,
    POLYGONS,
    THINGS,
    VOID,
    read_files,
)
from transfer.datasets.import_shapely import import_shapely
from transfer.datasets.samples import Instance, Sample

CLASSES = tuple(label.name for label in THINGS)
CATEGORY_IDS = tuple(label.id for label in THINGS)
GROUP = "group"
_IDS = {**VOID, **{label.name: label.id for label in LABELS_OF_CLASSES}}


def read_cityscapes(folder: Path, split: str) -> tuple[Sample, ...]:
    """Returns all images of a split, by name. Raises InputError for a missing or malformed file, or
    if shapely is not installed.
    """
    geometry = import_shapely("Cityscapes' polygons are read with")
    files = read_files(folder, split, (POLYGONS, INSTANCES))
    return tuple(
        _sample(one.image_id, one.image, one.truth[0], geometry)
        for one in progress(files, desc="read polygons", leave=False)
    )


def _sample(image_id: str, image: str, path: str, geometry: ModuleType) -> Sample:
    try:
        content = read_json(path)
        height, width = content["imgHeight"], content["imgWidth"]
        objects = [one for one in content["objects"] if "deleted" not in one]
        if not all(type(side) is int and side > 0 for side in (height, width)):
            raise ValueError(f"imgHeight {shown(height)}, imgWidth {shown(width)}")
        named = [(_label(one["label"]), _corners(one["polygon"])) for one in objects]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a file of Cityscapes' polygons ({type(error).__name__}: {error}); "
            "unpack it again"
        ) from None
    return Sample(image, image_id, height, width, tuple(_visible(named, geometry)))


def _label(name: Any) -> tuple[int, bool]:
    """Returns the id of a label, and whether it is of a group. Raises ValueError for an unknown
    one.
    """
    if name in _IDS:
        return _IDS[name], False
    single = name.removesuffix(GROUP)
    if single == name or single not in _IDS:
        raise ValueError(f"the label {shown(name)} is not one of Cityscapes")
    return _IDS[single], True


def _corners(points: Any) -> np.ndarray:
    """Returns float32 (n, 2). Raises ValueError for what is not at least three finite points."""
    found = np.asarray(points, dtype=np.float32)
    if found.ndim != 2 or found.shape[1] != 2 or len(found) < 3 or not np.isfinite(found).all():
        raise ValueError(f"the polygon {shown(points)} is not a list of three points or more")
    return found + np.float32(0.5)


def _visible(
    named: Sequence[tuple[tuple[int, bool], np.ndarray]], geometry: ModuleType
) -> list[Instance]:
    """Returns what is visible of the objects, from the front to the back."""
    found, in_front = [], geometry.Polygon()
    for (label, crowd), corners in reversed(named):
        if label < 0:
            continue
        whole = geometry.Polygon(corners).buffer(0.5, quad_segs=4)
        if label not in CATEGORY_IDS:
            in_front = in_front.union(whole)
            continue
        visible = whole.difference(in_front)
        if visible.is_empty:
            continue
        in_front = in_front.union(whole)
        parts = [part for part in getattr(visible, "geoms", [visible]) if part.area > 0]
        polygons = [np.asarray(part.exterior.coords).reshape(-1).tolist() for part in parts]
        category = CATEGORY_IDS.index(label)
        found.append(Instance(visible.bounds, category, crowd, polygons=polygons))
    return found
