"""Configs of semantic segmentation: loads and checks them, and makes the arguments of a segmenter.

The defaults are detection's (`transfer/detection/defaults.py`, TRANSFER.SEMANTIC), because one
command reads one kind of file; keys about boxes are ignored here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode

from pretrain.backbones.resnet import build_resnet
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from transfer.detection.config import changed, load_merged
from transfer.detection.config_checks import SEMANTIC, check_run, missing_data, value_of
from transfer.detection.torchvision_engine.resnet import TinyResNetSpec, trunk_name
from transfer.segmentation.dilation import dilate
from transfer.segmentation.fcn import LOSS_OVER
from transfer.segmentation.transforms import TrainTransform

if TYPE_CHECKING:
    from transfer.segmentation.data import SemanticSet

logger = logging.getLogger(__name__)

# MODEL.BACKBONE.NAME -> the trunk's name; "": that of MODEL.RESNETS
BACKBONES = {
    "build_resnet_backbone": "",
    "build_tiny_resnet_backbone": TinyResNetSpec.trunk_name,
}
AT_LEAST_ONE = (
    "SOLVER.MAX_ITER",
    "SOLVER.IMS_PER_BATCH",
    "MODEL.RESNETS.NUM_GROUPS",
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "TRANSFER.LOG_PERIOD",
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
    "TRANSFER.LR_LAYER_DECAY": (1.0,),
    "TRANSFER.LSJ.SCALES": ((),),
    "TRANSFER.TASK": (SEMANTIC,),
    "TRANSFER.OPTIMIZER": ("SGD", "AdamW"),
    "TRANSFER.SEMANTIC.LOSS_OVER": LOSS_OVER,
    "INPUT.RANDOM_FLIP": ("horizontal", "none"),
    # Statistics of the batch, over all processes or not; other norms have no protocol here.
    "MODEL.RESNETS.NORM": ("BN", "SyncBN"),
    "MODEL.BACKBONE.FREEZE_AT": (0,),
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
    for key in AT_LEAST_ONE:
        if value_of(cfg, key) < 1:
            raise InputError(f"{key} must be 1 or above, got {value_of(cfg, key)}")
    if cfg.TRANSFER.REPLICATES < 0:
        raise InputError(f"TRANSFER.REPLICATES must be 0 or above, got {cfg.TRANSFER.REPLICATES}")
    node = cfg.TRANSFER.SEMANTIC
    if not 2 <= node.NUM_CLASSES <= 255:
        raise InputError(f"TRANSFER.SEMANTIC.NUM_CLASSES {node.NUM_CLASSES} must be 2 to 255")
    if len(node.SCALE_RANGE) != 2 or not 0 < node.SCALE_RANGE[0] <= node.SCALE_RANGE[1]:
        raise InputError(
            f"TRANSFER.SEMANTIC.SCALE_RANGE {node.SCALE_RANGE} must be two factors above 0, the "
            "smaller one first"
        )
    if not 0 <= node.DROPOUT < 1:
        raise InputError(f"TRANSFER.SEMANTIC.DROPOUT {node.DROPOUT} must be from 0 to below 1")
    if cfg.SEED < 0:
        raise InputError(f"SEED {cfg.SEED} must be 0 or above: each run needs a seed")
    if len(cfg.DATASETS.TEST) != 1 or not cfg.DATASETS.TRAIN:
        raise InputError(missing_data(cfg, ("semseg", "coco")))
    with torch.device("meta"):  # is quick and does not use the global generator
        trunk = build_resnet(backbone_name(cfg))
    dilate(trunk, node.OUTPUT_STRIDE, node.CONTRACT_DILATION)


def backbone_name(cfg: CfgNode) -> str:
    """Returns the trunk's name in pretrain.backbones, such as "resnet50"."""
    node = cfg.MODEL.RESNETS
    name = find(cfg.MODEL.BACKBONE.NAME, BACKBONES, "MODEL.BACKBONE.NAME")
    return name or trunk_name(node.DEPTH, node.NUM_GROUPS, node.WIDTH_PER_GROUP)


def segmenter_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Returns the arguments of `build_segmenter`, except those that the weights decide."""
    node = cfg.TRANSFER.SEMANTIC
    return {
        "backbone": backbone_name(cfg),
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
    """Sets NUM_CLASSES from data sets that name a folder; for others, a mismatch is an error."""
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
