"""Configs of semantic segmentation: loads and checks them, and makes the arguments of a segmenter.

Three kinds of head are trained: an FCN on a ResNet that the config names, UPerNet on any network
that it names, and a linear probe on the frozen backbone of the weights. The defaults are those of
detection (`transfer/detection/defaults.py`, TRANSFER.SEMANTIC), because one command reads both
kinds of config; keys about boxes are ignored here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode

from pretrain.backbones.resnet import BACKBONES as RESNETS
from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.checkpoints.build import build_trunk
from transfer.checkpoints.networks.architectures import is_read
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.detection.config import changed, load_merged
from transfer.detection.config_checks import (
    SEMANTIC,
    check_least,
    check_run,
    missing_data,
    value_of,
)
from transfer.detection.defaults import make_defaults
from transfer.detection.roles import is_linear_probe
from transfer.detection.torchvision_engine.resnet import TinyResNetSpec, trunk_name
from transfer.detection.torchvision_engine.timm_convnet import has_layer_groups
from transfer.segmentation.dilation import dilate
from transfer.segmentation.fcn import FCN, LINEAR, LOSS_OVER, UPER
from transfer.segmentation.pyramid import check_pyramid_of
from transfer.segmentation.transforms import TrainTransform

if TYPE_CHECKING:
    from transfer.segmentation.data import SemanticSet

logger = logging.getLogger(__name__)

# The trunk's name by MODEL.BACKBONE.NAME; "": that of MODEL.RESNETS
BACKBONES = {
    "build_resnet_backbone": "",
    "build_tiny_resnet_backbone": TinyResNetSpec.trunk_name,
}
ANY = "any"  # in place of a backbone's name: the network of the weights
ALL_FROZEN = 5  # MODEL.BACKBONE.FREEZE_AT: Detectron2's value for a ResNet's stem and all stages
# The keys that a head does not read
FCN_KEYS, UPER_KEYS = ("HEAD_CONVS", "HEAD_DILATION", "HEAD_CONCAT"), ("VIT_BLOCKS", "DROP_PATH")
UNREAD = {
    FCN: UPER_KEYS,
    LINEAR: (*FCN_KEYS, "HEAD_CHANNELS", "AUX_WEIGHT", *UPER_KEYS),
    UPER: FCN_KEYS,
}
AT_LEAST_ONE = (
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "TRANSFER.SEMANTIC.HEAD_CONVS",
    "TRANSFER.SEMANTIC.HEAD_CHANNELS",
    "TRANSFER.SEMANTIC.HEAD_DILATION",
    "TRANSFER.SEMANTIC.AUX_CHANNELS",
    "TRANSFER.SEMANTIC.CROP_SIZE",
)
ONE_OF = {
    # Only for detection: they must not be ignored silently.
    "SOLVER.AMP.ENABLED": (False,),
    "SOLVER.REFERENCE_WORLD_SIZE": (0,),
    "DATALOADER.SAMPLER_TRAIN": ("TrainingSampler",),
    "INPUT.CROP.ENABLED": (False,),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice",),
    "TRANSFER.ACCUMULATE": (1,),
    "TRANSFER.LR_SWEEP.RATES": ((),),
    "TRANSFER.INIT": ("auto", "backbone"),
    "TRANSFER.LSJ.SCALES": ((),),
    "TRANSFER.CONVNET.DROP_PATH": (0.0,),  # TRANSFER.SEMANTIC.DROP_PATH
    "TRANSFER.CONVNET.OUT_NORM": (False,),
    "TRANSFER.TASK": (SEMANTIC,),
    "TRANSFER.OPTIMIZER": ("SGD", "AdamW"),
    "TRANSFER.SEMANTIC.HEAD": (FCN, LINEAR, UPER),
    "TRANSFER.SEMANTIC.LOSS_OVER": LOSS_OVER,
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    # Statistics of the batch, over all processes or not; other norms have no protocol here.
    "MODEL.RESNETS.NORM": ("BN", "SyncBN"),
    "MODEL.BACKBONE.FREEZE_AT": (0, ALL_FROZEN),
    "MODEL.RESNETS.RES5_DILATION": (1,),  # TRANSFER.SEMANTIC.OUTPUT_STRIDE dilates
    "TEST.PRECISE_BN.ENABLED": (False,),
}


def load_segmentation_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Returns the merged, frozen, checked config of a file or a name below configs/.

    Raises InputError for unknown keys and for values that this project does not support.
    """
    cfg = load_merged(name, overrides)
    check(cfg)
    check_run(cfg, name)
    return cfg


def check(cfg: CfgNode) -> None:
    """Raises InputError, naming the key, for a value or a combination that is not supported."""
    for key, allowed in ONE_OF.items():
        if value_of(cfg, key) not in allowed:
            known = ", ".join(map(str, allowed))
            raise InputError(
                f"{key} {value_of(cfg, key)!r} is not supported for semantic segmentation; known: "
                f"{known}"
            )
    check_least(cfg, dict.fromkeys(AT_LEAST_ONE, 1))
    node = cfg.TRANSFER.SEMANTIC
    if not 2 <= node.NUM_CLASSES <= 255:
        raise InputError(f"TRANSFER.SEMANTIC.NUM_CLASSES {node.NUM_CLASSES} must be 2 to 255")
    if len(node.SCALE_RANGE) != 2 or not 0 < node.SCALE_RANGE[0] <= node.SCALE_RANGE[1]:
        raise InputError(
            f"TRANSFER.SEMANTIC.SCALE_RANGE {node.SCALE_RANGE} must be two factors above 0, the "
            "smaller one first"
        )
    if not 0 <= node.WINDOW_STRIDE <= node.CROP_SIZE:
        raise InputError(
            f"TRANSFER.SEMANTIC.WINDOW_STRIDE {node.WINDOW_STRIDE} must be 0 to TRANSFER.SEMANTIC."
            f"CROP_SIZE {node.CROP_SIZE}: windows further apart leave pixels out"
        )
    for key in ("DROPOUT", "DROP_PATH"):
        if not 0 <= node[key] < 1:
            raise InputError(f"TRANSFER.SEMANTIC.{key} {node[key]} must be from 0 to below 1")
    if node.POLY_POWER <= 0:
        raise InputError(f"TRANSFER.SEMANTIC.POLY_POWER {node.POLY_POWER} must be above 0")
    if min(node.TEST_SCALES, default=1.0) <= 0:
        raise InputError(f"TRANSFER.SEMANTIC.TEST_SCALES {node.TEST_SCALES} must be above 0")
    if len(cfg.DATASETS.TEST) != 1 or not cfg.DATASETS.TRAIN:
        raise InputError(missing_data(cfg, ("semseg", "coco")))
    _check_head(cfg)
    name = backbone_name(cfg)
    _check_layers(cfg, name)
    if name is not None:
        check_backbone(cfg, name)


def _check_head(cfg: CfgNode) -> None:
    """Raises InputError for a key that the head does not read, or a value that it cannot have."""
    node, defaults = cfg.TRANSFER.SEMANTIC, make_defaults().TRANSFER.SEMANTIC
    if is_linear_probe(cfg) and cfg.MODEL.BACKBONE.FREEZE_AT != ALL_FROZEN:
        raise InputError(
            f"MODEL.BACKBONE.FREEZE_AT {cfg.MODEL.BACKBONE.FREEZE_AT} must be {ALL_FROZEN} with "
            "TRANSFER.SEMANTIC.HEAD linear, which probes a frozen backbone"
        )
    for key in UNREAD[node.HEAD]:
        if node[key] != defaults[key]:
            raise InputError(
                f"TRANSFER.SEMANTIC.{key} {node[key]} has no effect with TRANSFER.SEMANTIC.HEAD "
                f"{node.HEAD}; leave it out"
            )
    check_norm_batch(cfg, 1)


def check_norm_batch(cfg: CfgNode, processes: int) -> None:
    """Raises InputError if a batch norm of UPerNet gets one value of each channel."""
    shares = processes if cfg.MODEL.RESNETS.NORM == "BN" else 1
    if cfg.TRANSFER.SEMANTIC.HEAD == UPER and cfg.SOLVER.IMS_PER_BATCH < 2 * shares:
        raise InputError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} is too small for TRANSFER.SEMANTIC."
            f"HEAD uper, which pools an image to one place: each batch norm needs 2 images; set "
            f"{2 * shares} or more"
        )


def _check_layers(cfg: CfgNode, name: str | None) -> None:
    """Raises InputError for rates by layer or dropped blocks of a network that has none of them."""
    decay, node = cfg.TRANSFER.LR_LAYER_DECAY, cfg.TRANSFER.SEMANTIC
    known = name is not None and (parse_vit(name) is not None or has_layer_groups(name))
    layered = node.HEAD == UPER and known
    if decay < 1 and (not layered or cfg.TRANSFER.OPTIMIZER != "AdamW"):
        raise InputError(
            f"TRANSFER.LR_LAYER_DECAY {decay} needs TRANSFER.SEMANTIC.HEAD uper on a ViT or a "
            "ConvNeXt, and AdamW; set 1"
        )
    if node.DROP_PATH and not layered:
        raise InputError(
            f"TRANSFER.SEMANTIC.DROP_PATH {node.DROP_PATH} needs a ViT or a ConvNeXt, not "
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME}; set 0"
        )


def check_backbone(cfg: CfgNode, name: str) -> None:
    """Raises InputError if a backbone has no map of features of the config's stride."""
    if name not in RESNETS:
        if cfg.TRANSFER.SEMANTIC.HEAD == UPER:
            check_pyramid_of(name, cfg.TRANSFER.SEMANTIC.VIT_BLOCKS)
        return
    with torch.device("meta"):  # is quick and does not use the global generator
        trunk = build_trunk(name, {})
    assert isinstance(trunk, Trunk)
    node = cfg.TRANSFER.SEMANTIC
    dilate(trunk, node.OUTPUT_STRIDE, node.CONTRACT_DILATION)


def backbone_name(cfg: CfgNode) -> str | None:
    """Returns the trunk's name, such as "resnet50"; None: the weights of a probe decide it."""
    name = cfg.MODEL.BACKBONE.NAME
    if is_linear_probe(cfg):
        _check_read(name, (ANY, *RESNETS), "a linear probe")
        return None if name == ANY else name
    if cfg.TRANSFER.SEMANTIC.HEAD == UPER and name not in BACKBONES:
        _check_read(name, tuple(BACKBONES), "TRANSFER.SEMANTIC.HEAD uper")
        return name
    node = cfg.MODEL.RESNETS
    known = find(name, BACKBONES, "MODEL.BACKBONE.NAME")
    return known or trunk_name(node.DEPTH, node.NUM_GROUPS, node.WIDTH_PER_GROUP)


def _check_read(name: str, known: Sequence[str], head: str) -> None:
    if name not in known and not is_read(name):
        raise InputError(
            f"MODEL.BACKBONE.NAME {name!r} is unknown for {head}; known: {', '.join(known)}, "
            "vit_base_patch16_224 and the like, and timm's ConvNets"
        )


def segmenter_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Returns the arguments of `build_segmenter`, except those that the weights decide."""
    node = cfg.TRANSFER.SEMANTIC
    return {
        "backbone": _known_backbone(cfg),
        "head": node.HEAD,
        "frozen": cfg.MODEL.BACKBONE.FREEZE_AT == ALL_FROZEN,
        "window_stride": node.WINDOW_STRIDE,
        "test_flip": node.TEST_FLIP,
        "vit_blocks": tuple(node.VIT_BLOCKS),
        "drop_path": node.DROP_PATH,
        "num_classes": node.NUM_CLASSES,
        "output_stride": node.OUTPUT_STRIDE,
        "contract_dilation": node.CONTRACT_DILATION,
        "head_convs": node.HEAD_CONVS,
        "head_channels": node.HEAD_CHANNELS,
        "head_dilation": node.HEAD_DILATION,
        "head_concat": node.HEAD_CONCAT,
        "dropout": node.DROPOUT,
        "aux_weight": node.AUX_WEIGHT,
        "aux_channels": node.AUX_CHANNELS,
        "crop_size": node.CROP_SIZE,
        "align_corners": node.ALIGN_CORNERS,
        "loss_over": node.LOSS_OVER,
    }


def _known_backbone(cfg: CfgNode) -> str:
    name = backbone_name(cfg)
    if name is None:
        raise InputError(
            f"MODEL.BACKBONE.NAME {ANY} does not say which network a trained probe has; give its "
            "run's config.yaml, or add MODEL.BACKBONE.NAME and the network's name"
        )
    return name


def train_transform(cfg: CfgNode) -> TrainTransform:
    """Returns the random transform of training images."""
    node = cfg.TRANSFER.SEMANTIC
    return TrainTransform(
        short_edges=tuple(cfg.INPUT.MIN_SIZE_TRAIN),
        max_size=cfg.INPUT.MAX_SIZE_TRAIN,
        scale_range=tuple(node.SCALE_RANGE),
        crop_size=node.CROP_SIZE,
        crop_max_share=node.CROP_MAX_SHARE,
        flip_probability=0.5 if cfg.INPUT.RANDOM_FLIP == "horizontal" else 0.0,
        color_jitter=node.COLOR_JITTER,
    )


def with_data(cfg: CfgNode, train_set: SemanticSet) -> CfgNode:
    """Sets NUM_CLASSES from data sets that name a folder; for others, InputError at a mismatch."""
    found, wanted = len(train_set.classes), cfg.TRANSFER.SEMANTIC.NUM_CLASSES
    if found == wanted:
        return cfg
    builtin = [name for name in cfg.DATASETS.TRAIN if ":" not in name]
    if builtin:
        raise InputError(
            f"TRANSFER.SEMANTIC.NUM_CLASSES is {wanted}, but {', '.join(builtin)} has {found} "
            "classes including the background; set it to this number"
        )
    cfg = changed(cfg, {"TRANSFER.SEMANTIC.NUM_CLASSES": found})
    check(cfg)
    return cfg


def warn_about(architecture: Mapping[str, Any]) -> None:
    """Warns if the segmenter computes differently from the weights' original network."""
    if architecture.get("padding"):
        logger.warning(
            "these weights were trained with TensorFlow's padding, but a segmenter pads as torch "
            "does, which changes their features a little (tools/convert_weights.py --check says "
            "how much)"
        )
