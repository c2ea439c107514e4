"""What a `config.yaml` beside a detector's file says of it: Detectron2 writes both into one folder.

In: a model file, and the config that is in use. Out: the config with what decides the model's
numbers and no tensor shows (how pixels are normalised, where bottlenecks stride), and where that
was said. Nothing in the file beside is executed, and keys that have no part in this are not looked
at.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from fvcore.common.config import CfgNode

from pretrain.common.config import base_chain, load_keys
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.data.preprocess import Preprocess
from transfer.detection.config import all_defaults, preprocess_of
from transfer.detection.config_checks import value_of
from transfer.detection.engine import CONFIG_FILE
from transfer.training.files import ModelFile

logger = logging.getLogger(__name__)

INPUT = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)
CLASSES = "TRANSFER.CLASSES"
# They change what the same tensors predict; of these the config in use decides.
COMPARED = (
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.RESNETS.RES5_DILATION",
)


@dataclass(frozen=True)
class Stated:
    """What decides a model's numbers beside its tensors."""

    preprocess: Preprocess
    stride_in_1x1: bool


def look_beside(model_file: Path, cfg: CfgNode) -> Stated:
    """What is said beside a model file, whose own content says nothing of its input.

    Warns, once in a process, if nothing beside it says how pixels were normalised.
    """
    path = model_file.parent / CONFIG_FILE
    said = _read(path)
    if said is None:
        said = cfg
        warn_once(
            f"{model_file} does not say how its input was normalised, and no {CONFIG_FILE} beside "
            f"it does: {', '.join(f'{key} {value_of(cfg, key)}' for key in INPUT)} of the config "
            "in use are taken"
        )
    else:
        logger.info("%s: %s are those of %s", model_file, ", ".join(INPUT), path)
    return Stated(preprocess_of(said), said.MODEL.RESNETS.STRIDE_IN_1X1)


def named_classes(model: ModelFile, model_file: Path) -> tuple[str, ...] | None:
    """The names of a model's classes, in its order: of the file, or TRANSFER.CLASSES of the config
    beside it; None if neither names them."""
    if model.classes is not None:
        return model.classes
    said = _read(model_file.parent / CONFIG_FILE)
    return (tuple(said.TRANSFER.CLASSES) or None) if said is not None else None


def compare_beside(model_file: Path, cfg: CfgNode) -> None:
    """Warns, once in a process, of keys that change what the model predicts and that the file
    beside it, if there is one, has otherwise than the config in use."""
    path = model_file.parent / CONFIG_FILE
    said = _read(path)
    if said is None:
        return
    odd = [
        f"{key} {value_of(said, key)} (in use: {value_of(cfg, key)})"
        for key in COMPARED
        if list_of(value_of(said, key)) != list_of(value_of(cfg, key))
    ]
    if odd:
        warn_once(f"{path} differs from the config in use, which decides: {', '.join(odd)}")


def list_of(value: object) -> object:
    """Tuples as lists, at every depth, so that either compares."""
    return [list_of(item) for item in value] if isinstance(value, (list, tuple)) else value


def _read(path: Path) -> CfgNode | None:
    """The keys of INPUT, COMPARED and CLASSES; None if there is no config of Detectron2."""
    if not path.is_file():
        return None
    try:
        if not any("MODEL" in content for _, content in base_chain(path)):
            return None  # of another program; Detectron2's "lazy" configs have a section `model`
        return load_keys(path, all_defaults(), (*INPUT, *COMPARED, CLASSES))
    except InputError as error:
        warn_once(f"{error}; this file is not taken into account")
        return None
