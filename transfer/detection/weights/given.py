"""What --weights names, held against a config: a backbone or a whole detector in, facts out.

In: a file (or "random") and a config. Out: weights of the config's backbone, or the config
completed by the facts that travel with the weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.names.vit import VITDET
from transfer.checkpoints.networks.architectures import same_trunk
from transfer.checkpoints.networks.vit_architectures import parse_vit, vitdet_lacks
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.read import read_weights
from transfer.checkpoints.weights import Weights
from transfer.detection.config import backbone_name, with_preprocess
from transfer.detection.weights.config_beside import compare_beside, look_beside
from transfer.training.files import read_model

logger = logging.getLogger(__name__)

# Norms that take the weights of a batch norm: every ResNet that can be read here has one.
BATCH_NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN")
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def read_backbone(source: OpenedWeights, cfg: CfgNode, seed: int) -> Weights:
    """The weights of a file, or "random" ones, checked to be those of the config's backbone."""
    name = backbone_name(cfg)
    norm = "FrozenBN" if parse_vit(name) else cfg.MODEL.RESNETS.NORM
    if source.is_random and norm == "FrozenBN" and not parse_vit(name):
        logger.warning(
            "random weights with FrozenBN: nothing normalises; set MODEL.RESNETS.NORM BN"
        )
    weights = read_weights(source, backbone=name if source.is_random else None, seed=seed)
    check_backbone(source, weights, cfg)
    if norm not in BATCH_NORMS:
        if not source.is_random:
            raise InputError(
                f"MODEL.RESNETS.NORM {norm!r} has no place for the batch norm of {source}: set one "
                f"of {', '.join(BATCH_NORMS)}, or take --weights random"
            )
        weights = replace(weights, state=_without_batch_norm(weights.state, norm))
    return weights


def _without_batch_norm(state: Mapping[str, Tensor], norm: str) -> dict[str, Tensor]:
    """An untrained ResNet's tensors without what the norm of that name ("": none) does not have."""
    kept = {name: value for name, value in state.items() if not name.endswith(STATISTICS)}
    return kept if norm else {name: value for name, value in kept.items() if value.dim() > 1}


def check_backbone(source: OpenedWeights, weights: Weights, cfg: CfgNode) -> None:
    """Raises InputError unless the weights are of the config's backbone."""
    name = backbone_name(cfg)
    lacks = vitdet_lacks(weights.backbone)
    if lacks and parse_vit(name):
        raise InputError(
            f"{source} is a {weights.backbone}: ViTDet's network has no {lacks}; choose a plain ViT"
        )
    if not same_trunk(weights.backbone, name):
        raise InputError(
            f"{source} is a {weights.backbone}, where the config builds a {name}: choose other "
            "weights, or a config (MODEL.RESNETS.DEPTH, TRANSFER.VIT) of their backbone"
        )


def with_backbone(cfg: CfgNode, weights: Weights) -> CfgNode:
    """The config completed by the facts of a backbone's weights."""
    positions = _positions(weights.state, "")
    return with_preprocess(cfg, weights.preprocess, weights.architecture, positions)


def with_detector(cfg: CfgNode, source: OpenedWeights, config_name: str) -> CfgNode:
    """The config completed by the facts of the whole detector in a file.

    Raises InputError where the file is no detector, or not the config's: Detectron2 itself would
    only warn of tensors that have another shape, and predict with untrained ones.
    """
    from transfer.detection.torchvision_engine.engine import make_detector
    from transfer.detection.torchvision_engine.load import load_model

    file, model = source.file, read_model(source)
    preprocess, architecture = model.preprocess, model.architecture
    if preprocess is None:
        said = look_beside(file, cfg)
        preprocess, architecture = said.preprocess, {"stride_in_1x1": said.stride_in_1x1}
    compare_beside(file, cfg)
    cfg = with_preprocess(cfg, preprocess, architecture, _positions(model.state, VITDET))
    try:
        load_model(make_detector(cfg, model.preprocess or Preprocess()), model.state)
    except InputError as error:
        raise InputError(f"{source} does not fit {config_name}: {error}") from None
    return cfg


def _positions(state: Mapping[str, Tensor], prefix: str) -> int:
    """Positions of a ViT's tensors; 0 of another backbone's."""
    table = state.get(f"{prefix}pos_embed")
    return 0 if table is None else table.shape[1]
