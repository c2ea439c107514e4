"""Cuts an object's polygons to a window by shapely, as Detectron2's CropTransform does."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from transfer.datasets.import_shapely import import_shapely

USE = "INPUT.CROP and TRANSFER.LSJ with MODEL.MASK_ON cut polygons with"


def cut_polygons(
    polygons: Iterable[np.ndarray], left: int, top: int, width: int, height: int
) -> list[np.ndarray]:
    """Cuts polygons, each float64 (n, 2), to their parts within the window.

    Each part is (m, 2), relative to the window's corner; there are often none.

    Raises InputError if shapely is not installed.
    """
    geometry = import_shapely(USE)
    # `buffer(0)` mends polygons that cross themselves, as Detectron2 does.
    window = geometry.box(left, top, left + width, top + height).buffer(0.0)
    parts = []
    for polygon in polygons:
        whole = geometry.Polygon(polygon).buffer(0.0)
        if not whole.is_valid:
            continue
        cut = whole.intersection(window)
        for part in getattr(cut, "geoms", [cut]):
            # If only a corner or an edge touches, a point or a line is left.
            if isinstance(part, geometry.Polygon) and part.is_valid and not part.is_empty:
                corners = np.asarray(part.exterior.coords)[:-1]  # the last point repeats the first
                parts.append(corners - (left, top))
    return parts
