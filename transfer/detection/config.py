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

from pretrain.common.config import config_sha256
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.preprocess import Preprocess
from transfer.datasets.loaded import check_masks, check_trainable
from transfer.detection.config_checks import DETECTION, NAMES, SEMANTIC, check
from transfer.detection.config_load import load_merged
from transfer.detection.config_spec import (
    architecture,
    backbone_name,
    detector_arguments,
    value_of,
)
from transfer.detection.config_vit import is_vit, leave_out_vitdet, vit_facts
from transfer.detection.torchvision_engine.spec import PYRAMIDS
from transfer.detection.upstream_keys import ONLY

if TYPE_CHECKING:
    from transfer.datasets.samples import DetectionSet

__all__ = ["SEMANTIC", "architecture", "backbone_name", "check", "detector_arguments"]

logger = logging.getLogger(__name__)

RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # on 0..255
# TRANSFER.TASK -> the package that trains for it; each has `run` and `show`.
TASKS = {DETECTION: "transfer.detection", SEMANTIC: "transfer.segmentation"}


def load_detection_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The merged, frozen, checked config of a file or a name below configs/.

    Raises InputError for unknown keys and for values that this project does not support.
    """
    cfg = load_merged(name, overrides, ONLY, NAMES)
    check(cfg, name)
    return cfg


def task_package(name: str, overrides: Sequence[str] = ()) -> str:
    """The package that trains for TRANSFER.TASK of a config; nothing else of it is checked.

    Raises InputError for an unknown task.
    """
    cfg = load_merged(name, overrides)
    return find(cfg.TRANSFER.TASK, TASKS, "task", "TRANSFER.TASK")


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


def identity(cfg: CfgNode) -> CfgNode:
    """What makes two runs one protocol: everything but where it runs and what the weights decide.

    Keys that came later leave no trace while they are off, so that older records keep their group.
    """
    kept = cfg.clone()
    kept.defrost()
    kept.DATALOADER.NUM_WORKERS = 0
    kept.MODEL.WEIGHTS = ""
    kept.MODEL.DEVICE = ""
    kept.TRANSFER.DRAW_DETECTIONS = 0
    kept.TRANSFER.LOG_PERIOD = 0
    kept.TRANSFER.CHANNELS_LAST = False
    # Younger than some records, and no part of a protocol: left out, so that identities stay.
    for key in ("CHECK_IMAGES", "COCO_EVALUATOR", "PROTOCOL", "REPLICATES"):
        del kept.TRANSFER[key]
    kept.SOLVER.CHECKPOINT_PERIOD = 0
    # Facts of the weights (see `with_preprocess`), whatever a config says for plain Detectron2.
    kept.INPUT.FORMAT = "RGB"
    kept.MODEL.PIXEL_MEAN, kept.MODEL.PIXEL_STD = list(RGB_MEAN), list(RGB_STD)
    kept.MODEL.RESNETS.STRIDE_IN_1X1 = False
    if cfg.TRANSFER.VOC_COUNTS_FROM == "auto":
        del kept.TRANSFER["VOC_COUNTS_FROM"]
    if cfg.TRANSFER.INIT != "detector":
        del kept.TRANSFER["INIT"]
    # A run scaled by Detectron2's rule is the same protocol; one at another rate is not.
    del kept.SOLVER["REFERENCE_WORLD_SIZE"]
    if not cfg.SOLVER.AMP.ENABLED:
        del kept.SOLVER["AMP"], kept.TRANSFER["AMP_DTYPE"]
    # Without batch norm, micro-batches are as good as more processes.
    if cfg.TRANSFER.ACCUMULATE == 1 or not batch_norms(cfg):
        del kept.TRANSFER["ACCUMULATE"]
    if not cfg.TRANSFER.LR_SWEEP.RATES:
        del kept.TRANSFER["LR_SWEEP"]
    leave_out_vitdet(kept)
    if kept.TRANSFER.TASK == DETECTION:
        del kept.TRANSFER["TASK"], kept.TRANSFER["SEMANTIC"]
    return kept


def batch_norms(cfg: CfgNode) -> set[str]:
    """Names of the norms in the detector whose statistics are those of a batch."""
    nodes = [] if is_vit(cfg) else [cfg.MODEL.RESNETS]
    if architecture(cfg) in PYRAMIDS:
        nodes.append(cfg.MODEL.FPN)
    if cfg.MODEL.ROI_HEADS.NAME == "StandardROIHeads":
        nodes.append(cfg.MODEL.ROI_BOX_HEAD)
    if cfg.MODEL.MASK_ON:
        nodes.append(cfg.MODEL.ROI_MASK_HEAD)
    return {node.NORM for node in nodes} & {"BN", "SyncBN", "naiveSyncBN"}


def protocol_sha256(cfg: CfgNode) -> str:
    """Identity of the protocol as 64 hexadecimal digits."""
    return config_sha256(identity(cfg))


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
    """NUM_CLASSES set to `found`, with a line; of built-in data sets a mismatch is an InputError.

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
    logger.info("MODEL.ROI_HEADS.NUM_CLASSES %d, from the data", found)
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
