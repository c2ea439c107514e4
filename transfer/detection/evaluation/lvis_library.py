"""Imports the evaluator of the package `lvis` without what its package needs only for drawings.

Version 0.5.3, the last one, imports OpenCV for its drawings, sets up Python's logging, and uses
`numpy.float`, which NumPy 1.24 removed. The scores do not need the drawings: their module is not
imported, Python's logging is not changed, and only this package gets `numpy.float` back.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

import numpy

from pretrain.common.installed import check_installed

DRAWING = "lvis.vis"


class _NumPy:
    """NumPy with the name `float`, which it had before 1.24."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(numpy, name)


def import_lvis() -> ModuleType:
    """Returns the module `lvis.eval`, which also has LVIS and LVISResults.

    Raises InputError if the package is not installed.
    """
    check_installed(
        "lvis",
        "a data set of LVIS is scored by the package lvis, which",
        "--no-deps lvis (only its drawings need more)",
    )
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stub = "lvis" not in sys.modules
    if stub:
        drawing = ModuleType(DRAWING)
        setattr(drawing, "LVISVis", None)
        sys.modules[DRAWING] = drawing
    try:
        module = importlib.import_module("lvis.eval")
    finally:
        if stub:
            del sys.modules[DRAWING]
        root.handlers[:] = handlers
        root.setLevel(level)
    if not hasattr(numpy, "float"):
        setattr(module, "np", _NumPy())
    logging.getLogger("lvis").setLevel(logging.ERROR)  # otherwise each evaluation prints a warning
    return module
