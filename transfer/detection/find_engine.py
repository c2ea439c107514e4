"""Finds the engine that a command asks for by its name."""

from __future__ import annotations

import importlib.util

from pretrain.common.errors import InputError
from transfer.detection.engine import Engine

NAMES = ("auto", "detectron2", "torchvision")


def choose_engine(name: str) -> str:
    """Returns "torchvision" or "detectron2"; "auto" takes detectron2 if it is installed. Raises
    InputError for an unknown name, or for detectron2 if it is not installed.
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
    """Returns the engine of a name that `choose_engine` returned."""
    if name == "detectron2":
        from transfer.detection.detectron2_engine import Detectron2Engine

        return Detectron2Engine()
    from transfer.detection.torchvision_engine.engine import TorchvisionEngine

    return TorchvisionEngine()
