"""From a pretraining config to its untrained method (trunk, heads, loss), or to a trained trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from pretrain.backbones.build import build_backbone, feature_width
from pretrain.backbones.heads import build_predictor, build_projector
from pretrain.backbones.vit import is_vit
from pretrain.common.checkpoint import load_checkpoint
from pretrain.common.errors import InputError, named_node
from pretrain.data.build import masked_view_share
from pretrain.data.preprocess import Preprocess
from pretrain.methods.all_methods import MSCN
from pretrain.methods.barlow import BarlowTwins
from pretrain.methods.base import Method
from pretrain.methods.byol import BYOL
from pretrain.methods.mae import MAE
from pretrain.methods.moco import MoCo
from pretrain.methods.moco_v3 import MoCoV3
from pretrain.methods.mscn import online_branch, pairing_of
from pretrain.methods.msn import MSN
from pretrain.methods.simclr import SimCLR
from pretrain.methods.simsiam import SimSiam
from pretrain.methods.supervised import Supervised
from pretrain.methods.target import Momentum
from pretrain.methods.vicreg import VICReg


def loss_name(cfg: CfgNode) -> str:
    """Returns the method whose loss is used: METHOD.BASE for mscn, otherwise METHOD.NAME itself."""
    return cfg.METHOD.BASE if cfg.METHOD.NAME == MSCN else cfg.METHOD.NAME


def build_trunk(cfg: CfgNode) -> nn.Module:
    """Returns the untrained backbone of the config."""
    return build_backbone(
        cfg.BACKBONE.NAME,
        zero_init_residual=cfg.BACKBONE.ZERO_INIT_RESIDUAL,
        image_size=cfg.VIEWS.SIZE,
        patch_size=cfg.BACKBONE.PATCH_SIZE,
        checkpointing=cfg.BACKBONE.CHECKPOINTING,
    )


def trunk_width(cfg: CfgNode) -> int:
    """Returns the number of features D of the config's backbone."""
    with torch.device("meta"):
        return feature_width(build_trunk(cfg))


def load_trunk(cfg: CfgNode, path: str | Path) -> tuple[nn.Module, Preprocess]:
    """Returns the trained trunk of a run's checkpoint, and the preprocessing that it expects.

    Raises InputError for a file that is not a checkpoint, or whose backbone is not the config's.
    """
    saved = load_checkpoint(path)
    mark, trunk = "trunk.", build_trunk(cfg)
    weights = {n.removeprefix(mark): v for n, v in saved["model"].items() if n.startswith(mark)}
    try:
        trunk.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{path} does not contain the BACKBONE.NAME {cfg.BACKBONE.NAME} of its run's config; "
            "the file and the config must come from the same run"
        ) from error
    return trunk, Preprocess.from_dict(saved["preprocess"])


def build_momentum(cfg: CfgNode) -> Momentum:
    """Returns the EMA coefficient's schedule."""
    node = cfg.METHOD
    return Momentum(node.MOMENTUM, node.MOMENTUM_SCHEDULE, cfg.SOLVER.STRETCH)


def build_method(cfg: CfgNode, num_classes: int = 0) -> Method:
    """Returns the untrained method of a config: backbone, heads and loss, as one torch module.

    Its `.trunk` is the backbone that is used downstream. The weights are drawn from torch's global
    generator: call `torch.manual_seed` before it.

    Args:
        num_classes: number of classes of the labels, for the method `supervised`.

    Example:
        >>> import pretrain
        >>> method = pretrain.build_method(pretrain.load_config("mscn_demo.yaml"))
        >>> type(method).__name__, method.trunk.out_dim  # MSCN on SimCLR's loss; features
        ('SimCLR', 128)
    """
    name, node, trunk = loss_name(cfg), cfg.METHOD, build_trunk(cfg)
    if name == "supervised":
        return Supervised(trunk, feature_width(trunk), num_classes)
    if name == "mae":
        return _build_mae(cfg, trunk)
    with named_node("METHOD.PROJECTOR.LAYERS"):
        projector = build_projector(
            feature_width(trunk),
            hidden_dim=node.PROJECTOR.HIDDEN_DIM,
            out_dim=node.PROJECTOR.OUT_DIM,
            layers=node.PROJECTOR.LAYERS,
            style="moco" if name in ("moco_v1", "moco_v2") else name,
        )
    if name == "msn":
        return _build_msn(cfg, trunk, projector)
    shared: dict[str, Any] = {
        "pairing": pairing_of(node.NAME, node.PAIRS),
        "joint_forward": node.JOINT_FORWARD,
    }
    return _build_joint_embedding(cfg, name, trunk, projector, shared)


def _build_joint_embedding(
    cfg: CfgNode, name: str, trunk: nn.Module, projector: nn.Module, shared: dict[str, Any]
) -> Method:
    node = cfg.METHOD
    if name == "simclr":
        return SimCLR(trunk, projector, temperature=node.TEMPERATURE, **shared)
    if name == "vicreg":
        return VICReg(trunk, projector, weights=tuple(node.VICREG.WEIGHTS), **shared)
    if name == "barlow":
        return BarlowTwins(trunk, projector, off_diagonal_weight=node.BARLOW.OFF_DIAGONAL, **shared)
    if name in ("moco_v1", "moco_v2"):
        shares = [masked_view_share(cfg, branch) for branch in (cfg.VIEWS.A, cfg.VIEWS.B)]
        return MoCo(
            trunk,
            projector,
            build_momentum(cfg),
            queue_size=node.QUEUE_SIZE,
            temperature=node.TEMPERATURE,
            online=online_branch(node.NAME, shares),
            shuffle=node.BN_GROUP > 0,
            **shared,
        )
    predictor = build_predictor(
        node.PROJECTOR.OUT_DIM, hidden_dim=node.PREDICTOR.HIDDEN_DIM, style=name
    )
    if name == "simsiam":
        return SimSiam(trunk, projector, predictor, **shared)
    momentum = build_momentum(cfg)
    if name == "byol":
        return BYOL(trunk, projector, predictor, momentum, **shared)
    assert name == "moco_v3", f"no builder for {name}"
    temperature = node.TEMPERATURE
    return MoCoV3(trunk, projector, predictor, momentum, temperature=temperature, **shared)


def _build_mae(cfg: CfgNode, trunk: nn.Module) -> MAE:
    node = cfg.METHOD.MAE
    assert is_vit(trunk)  # `check_backbone` has refused the others
    return MAE(
        trunk,
        image_size=cfg.VIEWS.SIZE,
        mask_ratio=node.MASK_RATIO,
        normalize_pixels=node.NORMALIZE_PIXELS,
        decoder_dim=node.DECODER_DIM,
        decoder_depth=node.DECODER_DEPTH,
        decoder_heads=node.DECODER_HEADS,
    )


def _build_msn(cfg: CfgNode, trunk: nn.Module, projector: nn.Module) -> MSN:
    node = cfg.METHOD.MSN
    assert is_vit(trunk)  # `check_backbone` has refused the others
    return MSN(
        trunk,
        projector,
        build_momentum(cfg),
        num_prototypes=node.PROTOTYPES,
        temperature=cfg.METHOD.TEMPERATURE,
        sharpening=node.SHARPENING,
        patch_drop=node.PATCH_DROP,
        weights=(node.MEAN_ENTROPY, node.ENTROPY),
        balance=node.SINKHORN,
    )
