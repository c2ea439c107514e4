"""Detection configs: YAML and overrides in, a checked config and plain arguments out.

The config is Detectron2's (`defaults.py`). Three sources complete it: the data set (number of
classes), the weights (pixel statistics, channel order, stride) and the command (output, seed).
Each `with_*` function returns a new frozen config; the protocol's identity is that of the config
before the weights' facts enter, so that checkpoints can be compared under one protocol.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.datasets.loaded import check_masks, check_trainable
from transfer.detection.config_checks import NAMES, SEMANTIC, check
from transfer.detection.config_load import load_merged
from transfer.detection.config_spec import (
    architecture,
    backbone_name,
    detector_arguments,
    value_of,
)
from transfer.detection.config_vit import is_vit, vit_facts
from transfer.detection.roles import ROLES
from transfer.detection.upstream_keys import ONLY

if TYPE_CHECKING:
    from transfer.datasets.samples import DetectionSet

__all__ = ["SEMANTIC", "architecture", "backbone_name", "check", "detector_arguments"]

logger = logging.getLogger(__name__)


def load_detection_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The merged, frozen, checked config of a file or a name below configs/.

    Raises InputError for unknown keys and for values that this project does not support.
    """
    cfg = load_merged(name, overrides, ONLY, NAMES)
    check(cfg, name)
    return cfg


def default_weights(name: str, overrides: Sequence[str] = ()) -> str:
    """What MODEL.WEIGHTS of a config names, for a command without --weights.

    Raises InputError where it names nothing.
    """
    found = load_merged(name, overrides).MODEL.WEIGHTS
    if not found:
        raise InputError(
            f"--weights is missing, and MODEL.WEIGHTS of {name} names none: give a checkpoint, or "
            "`random`"
        )
    return found


def protocol_name(cfg: CfgNode, config: str) -> str:
    """The name of the protocol in records: TRANSFER.PROTOCOL, or the config file's stem."""
    return cfg.TRANSFER.PROTOCOL or Path(config).stem


def protocol_sha256(cfg: CfgNode) -> str:
    """Identity of the protocol as 64 hexadecimal digits."""
    return ROLES.sha256(cfg)


def with_data(cfg: CfgNode, train_set: DetectionSet) -> CfgNode:
    """NUM_CLASSES from the data for `voc:` and `coco:` names; a mismatch otherwise is an error.

    Raises InputError also when masks are asked of a data set that has none, or has them in another
    form than MASK_FORMAT says, and when no image has an object to train on.
    """
    cfg = with_num_classes(cfg, len(train_set.classes), cfg.DATASETS.TRAIN)
    check_trainable(train_set)
    if cfg.MODEL.MASK_ON:
        check_masks(train_set, "annotate or remove them, or set MODEL.MASK_ON False")
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and train_set.has_run_lengths():
        raise InputError(
            f"some masks of {train_set.name} are run lengths, not polygons; set INPUT.MASK_FORMAT "
            "bitmask"
        )
    return cfg


def with_num_classes(cfg: CfgNode, found: int, names: Sequence[str]) -> CfgNode:
    """NUM_CLASSES set to `found`; of built-in data sets a mismatch is an InputError.

    Args:
        names: of the data sets that have these classes.
    """
    wanted = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    builtin = [name for name in names if ":" not in name]
    if builtin and found != wanted:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {wanted}, but {', '.join(builtin)} has {found} classes"
        )
    if found == wanted:
        return cfg
    return changed(cfg, {"MODEL.ROI_HEADS.NUM_CLASSES": found})


def with_preprocess(
    cfg: CfgNode,
    preprocess: Preprocess,
    architecture: Mapping[str, Any] = MappingProxyType({}),
    positions: int = 0,
) -> CfgNode:
    """Pixel statistics and channel order of the weights, and where their bottlenecks stride.

    Args:
        architecture: see `transfer.checkpoints.weights.Weights`.
        positions: of a ViT's `pos_embed` (1, positions, width).

    Warns where the config says something else: the weights decide, since they were trained so.
    """
    low, high = preprocess.value_range
    scale = 255.0 / (high - low)
    facts = {
        "INPUT.FORMAT": preprocess.channel_order,
        "MODEL.PIXEL_MEAN": [round((mean - low) * scale, 6) for mean in preprocess.mean],
        "MODEL.PIXEL_STD": [round(std * scale, 6) for std in preprocess.std],
    }
    if is_vit(cfg):
        heads = architecture.get("num_heads", cfg.TRANSFER.VIT.HEADS)
        facts |= vit_facts(cfg, positions, heads)
    else:
        facts["MODEL.RESNETS.STRIDE_IN_1X1"] = bool(architecture.get("stride_in_1x1"))
    for key, value in facts.items():
        if value_of(cfg, key) != value:
            logger.warning(
                "%s %s of the config is replaced by %s, which the weights were trained with",
                key,
                value_of(cfg, key),
                value,
            )
    if architecture.get("padding"):
        logger.warning(
            "these weights were trained with TensorFlow's padding; a detector pads as torch does, "
            "which moves their features a little (tools/convert_weights.py --check says how much)"
        )
    return changed(cfg, facts)


def preprocess_of(cfg: CfgNode) -> Preprocess:
    """What the config itself says about pixels: for weights that say nothing."""
    mean, std = tuple(cfg.MODEL.PIXEL_MEAN), tuple(cfg.MODEL.PIXEL_STD)
    return Preprocess(mean, std, cfg.INPUT.FORMAT, (0.0, 255.0))


def changed(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """A frozen copy with some keys ("A.B.C") replaced."""
    copy = cfg.clone()
    copy.defrost()
    for key, value in values.items():
        *parents, last = key.split(".")
        node = copy
        for parent in parents:
            node = node[parent]
        node[last] = value
    copy.freeze()
    return copy
