"""What a detector starts from: a backbone, a whole detector, or nothing.

Reads the config. TRANSFER.INIT `auto` decides by the names of the file's tensors; a start from a
whole detector is a protocol of its own (`roles.ROLES`), since its heads have been trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from transfer.checkpoints.read import RANDOM
from transfer.checkpoints.weights import Weights
from transfer.detection import config as detection_config
from transfer.detection.torchvision_engine.architectures import architecture, is_vit
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.weights.class_names import shown, warn_of_unnamed
from transfer.detection.weights.config_beside import look_beside
from transfer.detection.weights.detector import (
    BACKBONE,
    DETECTOR,
    OTHER_MODEL,
    DetectorWeights,
    architecture_of,
    kind_of,
    read_detector,
    read_trunk,
)
from transfer.detection.weights.given import check_backbone, read_backbone
from transfer.detection.weights.parts import BACKBONE as TRUNK
from transfer.detection.weights.parts import in_order, match_parts

logger = logging.getLogger(__name__)

INSTEAD = "TRANSFER.INIT backbone takes its backbone alone"


def with_init(cfg: CfgNode, source: str) -> CfgNode:
    """The config with TRANSFER.INIT decided: BACKBONE or DETECTOR.

    Raises InputError where the file is not what INIT asks for.
    """
    asked = cfg.TRANSFER.INIT
    if asked == BACKBONE:
        return cfg
    kind = BACKBONE if source == RANDOM else kind_of(source)
    if kind == OTHER_MODEL:
        raise InputError(
            f"{source} is a model of Detectron2, but of another meta-architecture than "
            f"{cfg.MODEL.META_ARCHITECTURE} (RPN or ROI heads are missing); {INSTEAD}"
        )
    if asked == DETECTOR and kind == BACKBONE:
        raise InputError(f"TRANSFER.INIT is detector, but {source} is none; set it to backbone")
    return detection_config.changed(cfg, {"TRANSFER.INIT": kind})


def read_start(
    source: str, cfg: CfgNode, seed: int, classes: Sequence[str] | None = None
) -> Weights:
    """The weights that training starts from, checked to be those of the config's detector.

    Logs what starts from the file and what anew. `DetectorWeights` where INIT is DETECTOR.

    Args:
        cfg: see `with_init`.
        seed: of `random` weights.
        classes: names of the data's classes, in the order of the predictors that are built; None:
            not compared with the file's.
    """
    # Where a detector's file is silent, the config beside it speaks, or the config in use.
    unsaid = partial(look_beside, cfg=cfg)
    if cfg.TRANSFER.INIT == DETECTOR:
        weights: Weights = read_detector(source, unsaid)
    elif source != RANDOM and kind_of(source) != BACKBONE:
        weights = read_trunk(source, unsaid)
    else:
        weights = read_backbone(source, cfg, seed)
    check_backbone(source, weights, cfg)
    if isinstance(weights, DetectorWeights):
        return _fitted(weights, source, cfg, classes)
    logger.info("start: the backbone of %s; FPN, RPN and heads anew", source)
    return weights


def _fitted(
    weights: DetectorWeights, source: str, cfg: CfgNode, classes: Sequence[str] | None
) -> DetectorWeights:
    """With the tensors that fit the config's detector, part by part."""
    found, built = architecture_of(weights.detector), architecture(cfg)
    if found != built:
        raise InputError(
            f"{source} is a {found} detector, where the config builds {built}: choose a config of "
            f"that architecture, or {INSTEAD}"
        )
    with torch.device("meta"):  # names and shapes only
        own = make_detector(_of_vit(cfg, weights), weights.preprocess).state_dict()
    tensors, other = _by_name(weights, source, classes)
    parts = match_parts({name: value.shape for name, value in own.items()}, tensors, other)
    (trunk,) = (part for part in parts if part.name == TRUNK)
    if not trunk.loaded:
        raise InputError(f"{source} does not fit the config: its backbone differs, {trunk.reason}")
    logger.info("start: the whole detector of %s", source)
    for part in parts:
        logger.log(logging.INFO if part.expected else logging.WARNING, "start: %s", part.line())
    names = {name for part in parts if part.loaded for name in part.names}
    return replace(weights, fitting={k: v for k, v in tensors.items() if k in names})


def _by_name(
    weights: DetectorWeights, source: str, classes: Sequence[str] | None
) -> tuple[Mapping[str, Tensor], str]:
    """The tensors with the predictors' rows in the order of `classes`, and why the predictors
    cannot be taken ("": they can)."""
    theirs = weights.classes
    if classes is None or theirs == tuple(classes):
        return weights.detector, ""
    if theirs is None:
        warn_of_unnamed(source, classes)
        return weights.detector, ""
    if set(theirs) != set(classes):
        return weights.detector, f"its classes are {shown(theirs)}, here {shown(classes)}"
    warn_once(
        f"{source}: its classes are in a different order ({shown(theirs)}) than the data's "
        f"({shown(classes)}); the predictors are mapped by name"
    )
    return in_order(weights.detector, theirs, classes), ""


def _of_vit(cfg: CfgNode, weights: Weights) -> CfgNode:
    """The config with what a ViT's weights decide about shapes; `with_backbone` says so later."""
    if not is_vit(cfg):
        return cfg
    positions = weights.state["pos_embed"].shape[1]
    heads = weights.architecture.get("num_heads", cfg.TRANSFER.VIT.HEADS)
    return detection_config.changed(cfg, detection_config.vit_facts(cfg, positions, heads))
