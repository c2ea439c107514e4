"""Imports shapely, which cuts polygons; only Cityscapes, and cropped masks, need it."""

from __future__ import annotations

from types import ModuleType

from pretrain.common.installed import check_installed


def import_shapely(use: str) -> ModuleType:
    """Returns the module shapely.geometry. Raises InputError if the package is not installed.

    Args:
        use: what needs it, as the beginning of the message: "Cityscapes' polygons are read with".
    """
    check_installed("shapely", f"{use} shapely, which")
    import shapely.geometry

    return shapely.geometry
