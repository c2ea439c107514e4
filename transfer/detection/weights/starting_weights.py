"""What a detector's training starts from: a backbone, a complete detector, or random weights.

This reads the config. TRANSFER.INIT `auto` decides by the names of the file's tensors. Training
that starts from a complete detector is a different protocol (`roles.ROLES`), because its heads are
already trained.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.architectures import same_trunk
from transfer.checkpoints.networks.convnext import parse_convnext
from transfer.checkpoints.networks.timm_convnets import is_timm_convnet
from transfer.checkpoints.networks.vit_architectures import parse_vit, vitdet_lacks
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.detection.config import backbone_name, changed, vit_facts, with_preprocess
from transfer.detection.torchvision_engine.architectures import architecture, is_timm, is_vit
from transfer.detection.torchvision_engine.batchnorm import BATCH_NORMS
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.timm_convnet import layout_of
from transfer.detection.weights.detector_file import (
    BACKBONE,
    DETECTOR,
    OTHER_MODEL,
    DetectorWeights,
    architecture_of,
    kind_of,
    read_detector,
    read_detector_backbone,
)
from transfer.detection.weights.matched_parts import BACKBONE_PART, in_class_order, match_parts

logger = logging.getLogger(__name__)

INSTEAD = "TRANSFER.INIT backbone loads only its backbone"
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def with_init(cfg: CfgNode, source: OpenedWeights) -> CfgNode:
    """Returns the config with TRANSFER.INIT decided: BACKBONE or DETECTOR.

    Raises InputError if the file is not what INIT asks for.
    """
    asked = cfg.TRANSFER.INIT
    if asked == BACKBONE:
        return cfg
    kind = BACKBONE if source.is_random else kind_of(source)
    if kind == OTHER_MODEL:
        raise InputError(
            f"{source} is a model of Detectron2, but its meta-architecture is not "
            f"{cfg.MODEL.META_ARCHITECTURE} (RPN or ROI heads are missing); {INSTEAD}"
        )
    if asked == DETECTOR and kind == BACKBONE:
        raise InputError(f"TRANSFER.INIT is detector, but {source} is not one; set it to backbone")
    return changed(cfg, {"TRANSFER.INIT": kind})


def read_starting_weights(
    source: OpenedWeights, cfg: CfgNode, seed: int, classes: Sequence[str] | None = None
) -> Weights:
    """Reads the weights that training starts from, checked to be of the config's network.

    Logs which parts of the detector are loaded from the file, and which start at their
    initialisation. Returns `DetectorWeights` if INIT is DETECTOR.

    Args:
        cfg: as `with_init` returns it.
        seed: seed for `random` weights.
        classes: names of the data's classes, in the order of the predictors that are built; None:
            they are not compared with the file's.

    Raises:
        InputError: the file is unreadable, or of a different network.
    """
    if cfg.TRANSFER.INIT == DETECTOR:
        detector = read_detector(source, cfg)
        check_backbone(source, detector, cfg)
        return _with_fitting(detector, source, cfg, classes)
    if not source.is_random and kind_of(source) != BACKBONE:
        weights = read_detector_backbone(source, cfg)
        check_backbone(source, weights, cfg)
    else:
        weights = read_backbone(source, cfg, seed)
    logger.info(
        "start: the backbone of %s; FPN, RPN and heads start at their initialisation", source
    )
    return weights


def read_backbone(source: OpenedWeights, cfg: CfgNode, seed: int) -> Weights:
    """Reads the config's backbone from a file, or draws `random` weights for it.

    Raises InputError if the file has no such weights, or if MODEL.RESNETS.NORM cannot hold its
    batch norms.
    """
    name = backbone_name(cfg)
    norm = cfg.MODEL.RESNETS.NORM if has_batch_norm(cfg) else None
    if source.is_random and norm == "FrozenBN":
        logger.warning("random weights with FrozenBN are not normalised; set MODEL.RESNETS.NORM BN")
    # What a file holds is compared later, but a name may be needed to read it.
    wanted = name if source.is_random or is_timm_convnet(name) else None
    weights = read_weights(source, backbone=wanted, seed=seed)
    check_backbone(source, weights, cfg)
    if norm is not None and norm not in BATCH_NORMS:
        if not source.is_random:
            raise InputError(
                f"MODEL.RESNETS.NORM {norm!r} cannot hold the batch norms of {source}: set one "
                f"of {', '.join(BATCH_NORMS)}, or give --weights random"
            )
        weights = replace(weights, state=_without_batch_norm(weights.state, norm))
    return weights


def has_batch_norm(cfg: CfgNode) -> bool:
    """Returns whether the config's backbone has batch norms, in whose place MODEL.RESNETS.NORM
    is.
    """
    if is_timm(cfg):
        return layout_of(cfg.MODEL.BACKBONE.NAME).batch_norms
    return not is_vit(cfg)


def _without_batch_norm(state: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """Returns an untrained ResNet's tensors without what the norm of that name ("": none) does not
    have.
    """
    kept = {name: value for name, value in state.items() if not name.endswith(STATISTICS)}
    return kept if norm else {name: value for name, value in kept.items() if value.dim() > 1}


def check_backbone(source: OpenedWeights | str, weights: Weights, cfg: CfgNode) -> None:
    """Raises InputError unless the weights are of the config's backbone."""
    name = backbone_name(cfg)
    lacks = vitdet_lacks(weights.backbone)
    if lacks and parse_vit(name):
        raise InputError(
            f"{source} is a {weights.backbone}: ViTDet's network has no {lacks}; choose a plain ViT"
        )
    wrong = wrong_backbone(source, weights.backbone, name)
    if wrong:
        raise InputError(wrong)


def wrong_backbone(source: object, found: str, built: str) -> str | None:
    """Returns why weights of the backbone `found` do not fit a config that builds `built`, with
    the remedy; None if they fit.
    """
    if same_trunk(found, built):
        return None
    remedy = "a config with their backbone (MODEL.BACKBONE.NAME, MODEL.RESNETS.DEPTH, TRANSFER.VIT)"
    if is_timm_convnet(found) or parse_convnext(found):
        remedy = f"a config with a feature pyramid, with MODEL.BACKBONE.NAME {found}"
    return (
        f"{source} is a {found}, but the config builds a {built}: choose different weights, or "
        f"{remedy}"
    )


def with_backbone(cfg: CfgNode, weights: Weights) -> CfgNode:
    """Returns the config completed by the facts of a backbone's weights."""
    positions = count_positions(weights.state)
    return with_preprocess(cfg, weights.preprocess, weights.architecture, positions)


def count_positions(state: Mapping[str, Tensor], prefix: str = "") -> int:
    """Returns the number of positions of a ViT whose names have the prefix; 0 for any other
    backbone.
    """
    positions = state.get(f"{prefix}pos_embed")
    return 0 if positions is None else positions.shape[1]


def _with_fitting(
    weights: DetectorWeights, source: OpenedWeights, cfg: CfgNode, classes: Sequence[str] | None
) -> DetectorWeights:
    """Returns the weights with `fitting`: the tensors of the parts that fit the config's
    detector.
    """
    found, built = architecture_of(weights.detector), architecture(cfg)
    if found != built:
        raise InputError(
            f"{source} is a {found} detector, but the config builds {built}: choose a config of "
            f"that architecture, or {INSTEAD}"
        )
    with torch.device("meta"):  # names and shapes only
        own = make_detector(_of_vit(cfg, weights), weights.preprocess).state_dict()
    tensors, other = in_class_order(weights.detector, str(source), weights.classes, classes)
    parts = match_parts({name: value.shape for name, value in own.items()}, tensors, other)
    (backbone,) = (part for part in parts if part.name == BACKBONE_PART)
    if not backbone.loaded:
        raise InputError(
            f"{source} does not fit the config, since its backbone differs ({backbone.reason}); "
            "use the config of its training"
        )
    logger.info("start: the complete detector of %s", source)
    for part in parts:
        logger.log(logging.INFO if part.expected else logging.WARNING, "start: %s", part.line())
    names = {name for part in parts if part.loaded for name in part.names}
    return replace(weights, fitting={k: v for k, v in tensors.items() if k in names})


def _of_vit(cfg: CfgNode, weights: Weights) -> CfgNode:
    """Returns the config with the shapes that a ViT's weights decide; `with_backbone` sets them
    later.
    """
    if not is_vit(cfg):
        return cfg
    heads = weights.architecture.get("num_heads", cfg.TRANSFER.VIT.HEADS)
    return changed(cfg, vit_facts(cfg, count_positions(weights.state), heads))
