"""The engine that a command asks for: a name in, an `Engine` out."""

from __future__ import annotations

import importlib.util

from pretrain.common.errors import InputError
from transfer.detection.engine import Engine

NAMES = ("auto", "detectron2", "torchvision")


def choose_engine(name: str) -> str:
    """ "torchvision" or "detectron2"; "auto" takes detectron2 if it is installed.

    Raises InputError for an unknown name, or detectron2 where it is absent.
    """
    if name not in NAMES:
        raise InputError(f"unknown engine '{name}'; known: {', '.join(NAMES)}")
    present = importlib.util.find_spec("detectron2") is not None
    if name == "auto":
        return "detectron2" if present else "torchvision"
    if name == "detectron2" and not present:
        raise InputError(
            "--engine detectron2: detectron2 is not installed; install it, or use --engine"
            " torchvision"
        )
    return name


def make_engine(name: str) -> Engine:
    """The engine of a name that `choose_engine` returned."""
    if name == "detectron2":
        from transfer.detection.detectron2_engine import Detectron2Engine

        return Detectron2Engine()
    from transfer.detection.torchvision_engine.engine import TorchvisionEngine

    return TorchvisionEngine()
