"""What a detector starts from: a backbone, a whole detector, or nothing.

Reads the config. TRANSFER.INIT `auto` decides by the names of the file's tensors; a start from a
whole detector is a protocol of its own (`config.identity`), since its heads have been trained.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from transfer.checkpoints.read import RANDOM
from transfer.checkpoints.weights import Weights
from transfer.detection import config as detection_config
from transfer.detection.config_vit import is_vit, vit_facts
from transfer.detection.given_weights import check_backbone, read_backbone
from transfer.detection.parts import BACKBONE as TRUNK
from transfer.detection.parts import match_parts
from transfer.detection.torchvision_engine.run import make_detector
from transfer.detection.whole import (
    BACKBONE,
    DETECTOR,
    OTHER_MODEL,
    DetectorWeights,
    architecture_of,
    kind_of,
    read_detector,
    read_trunk,
)

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


def read_start(source: str, cfg: CfgNode, seed: int) -> Weights:
    """The weights that training starts from, checked to be those of the config's detector.

    Logs what starts from the file and what anew. `DetectorWeights` where INIT is DETECTOR.

    Args:
        cfg: see `with_init`.
        seed: of `random` weights.
    """
    # Where a detector's file is silent the config speaks.
    silent = detection_config.preprocess_of(cfg), cfg.MODEL.RESNETS.STRIDE_IN_1X1
    if cfg.TRANSFER.INIT == DETECTOR:
        weights: Weights = read_detector(source, *silent)
    elif source != RANDOM and kind_of(source) != BACKBONE:
        weights = read_trunk(source, *silent)
    else:
        weights = read_backbone(source, cfg, seed)
    check_backbone(source, weights, cfg)
    if isinstance(weights, DetectorWeights):
        return _fitted(weights, source, cfg)
    logger.info("start: the backbone of %s; FPN, RPN and heads anew", source)
    return weights


def _fitted(weights: DetectorWeights, source: str, cfg: CfgNode) -> DetectorWeights:
    """With the tensors that fit the config's detector, part by part."""
    found, built = architecture_of(weights.detector), detection_config.architecture(cfg)
    if found != built:
        raise InputError(
            f"{source} is a {found} detector, where the config builds {built}: choose a config of "
            f"that architecture, or {INSTEAD}"
        )
    with torch.device("meta"):  # names and shapes only
        own = make_detector(_of_vit(cfg, weights), weights.preprocess).state_dict()
    parts = match_parts({name: value.shape for name, value in own.items()}, weights.detector)
    (trunk,) = (part for part in parts if part.name == TRUNK)
    if not trunk.loaded:
        raise InputError(f"{source} does not fit the config: its backbone differs, {trunk.reason}")
    logger.info("start: the whole detector of %s", source)
    for part in parts:
        logger.log(logging.INFO if part.expected else logging.WARNING, "start: %s", part.line())
    names = {name for part in parts if part.loaded for name in part.names}
    return replace(weights, fitting={k: v for k, v in weights.detector.items() if k in names})


def _of_vit(cfg: CfgNode, weights: Weights) -> CfgNode:
    """The config with what a ViT's weights decide about shapes; `with_backbone` says so later."""
    if not is_vit(cfg):
        return cfg
    positions = weights.state["pos_embed"].shape[1]
    heads = weights.architecture.get("num_heads", cfg.TRANSFER.VIT.HEADS)
    return detection_config.changed(cfg, vit_facts(cfg, positions, heads))
