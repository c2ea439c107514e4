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

from pretrain.common.config import config_sha256, load_config
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.data.preprocess import Preprocess
from transfer.datasets.loaded import check_masks, check_trainable
from transfer.detection.config_vit import (
    BACKBONE,
    check_vitdet,
    is_vit,
    leave_out_vitdet,
    vit_arguments,
    vit_facts,
)
from transfer.detection.defaults import ONLY, make_defaults
from transfer.detection.evaluation.coco import EVALUATORS as COCO_EVALUATORS
from transfer.detection.precision import DTYPES
from transfer.detection.torchvision_engine.spec import PYRAMIDS, DetectorSpec

if TYPE_CHECKING:
    from transfer.datasets.samples import DetectionSet

logger = logging.getLogger(__name__)

ARCHITECTURES = {
    "build_resnet_backbone": "C4",
    "build_resnet_fpn_backbone": "FPN",
    "build_tiny_resnet_backbone": "TINY",
    BACKBONE: "VIT",
}
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # on 0..255
LEAST = {
    "SOLVER.MAX_ITER": 1,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.REFERENCE_WORLD_SIZE": 0,
    "TRANSFER.LOG_PERIOD": 1,
    "TRANSFER.ACCUMULATE": 1,
    "TRANSFER.REPLICATES": 0,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MIN_SIZE_TEST": 0,  # 0: as the image is
}
DETECTION, SEMANTIC = "detection", "semantic"
# TRANSFER.TASK -> the package that trains for it; each has `run` and `show`.
TASKS = {DETECTION: "transfer.detection", SEMANTIC: "transfer.segmentation"}
HEADS = {
    "Res5ROIHeads": ("C4",),
    "Res5ROIHeadsExtraNorm": ("C4",),
    "StandardROIHeads": ("FPN", "TINY", "VIT"),
}


def load_detection_config(name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """The merged, frozen, checked config of a file or a name below configs/.

    Raises InputError for unknown keys and for values that this project does not support.
    """
    cfg = load_config(name, make_defaults(), overrides, folder="detection")
    check(cfg)
    return cfg


def task_package(name: str, overrides: Sequence[str] = ()) -> str:
    """The package that trains for TRANSFER.TASK of a config; nothing else of it is checked.

    Raises InputError for an unknown task.
    """
    cfg = load_config(name, make_defaults(), overrides, folder="detection")
    return find(cfg.TRANSFER.TASK, TASKS, "task", "TRANSFER.TASK")


def default_weights(name: str, overrides: Sequence[str] = ()) -> str:
    """What MODEL.WEIGHTS of a config names, for a command without --weights.

    Raises InputError where it names nothing.
    """
    found = load_config(name, make_defaults(), overrides, folder="detection").MODEL.WEIGHTS
    if not found:
        raise InputError(
            f"--weights is missing, and MODEL.WEIGHTS of {name} names none: give a checkpoint, or "
            "`random`"
        )
    return found


def protocol_name(cfg: CfgNode, config: str) -> str:
    """The name of the protocol in records: TRANSFER.PROTOCOL, or the config file's stem."""
    return cfg.TRANSFER.PROTOCOL or Path(config).stem


def check(cfg: CfgNode) -> None:
    """Raises InputError, naming the key, for a value or a combination that is not supported."""
    if cfg.TRANSFER.TASK != DETECTION:
        raise InputError(f"TRANSFER.TASK {cfg.TRANSFER.TASK!r} is no detection")
    for key, value in ONLY.items():
        if _get(cfg, key) != value:
            raise InputError(
                f"{key} {_get(cfg, key)!r} is not supported; the only value: {value!r}"
            )
    name = cfg.MODEL.ROI_HEADS.NAME
    allowed = find(name, HEADS, "MODEL.ROI_HEADS.NAME")
    if architecture(cfg) not in allowed:
        raise InputError(
            f"MODEL.ROI_HEADS.NAME {name} does not go with MODEL.BACKBONE.NAME "
            f"{cfg.MODEL.BACKBONE.NAME}"
        )
    if cfg.SEED < 0:
        raise InputError(f"SEED {cfg.SEED} must be 0 or above: unseeded runs are not repeatable")
    for key, allowed_values in {
        "INPUT.RANDOM_FLIP": ("horizontal", "none"),
        "INPUT.FORMAT": ("RGB", "BGR"),
        "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
        "TRANSFER.INIT": ("auto", "backbone", "detector"),
        "TRANSFER.VOC_METRIC": (2007, 2012),
        "TRANSFER.OPTIMIZER": ("SGD", "AdamW"),
        "TRANSFER.AMP_DTYPE": tuple(DTYPES),
        "TRANSFER.COCO_EVALUATOR": COCO_EVALUATORS,
    }.items():
        if _get(cfg, key) not in allowed_values:
            known = ", ".join(map(str, allowed_values))
            raise InputError(f"{key} {_get(cfg, key)!r} is unknown; known: {known}")
    for key, least in LEAST.items():
        if _get(cfg, key) < least:
            raise InputError(f"{key} must be {least} or above, got {_get(cfg, key)}")
    if not cfg.INPUT.MIN_SIZE_TRAIN or min(cfg.INPUT.MIN_SIZE_TRAIN) < 0:
        raise InputError(
            "INPUT.MIN_SIZE_TRAIN needs sizes of 0 (as the image is) or above, got "
            f"{list(cfg.INPUT.MIN_SIZE_TRAIN)}"
        )
    if len(cfg.DATASETS.TEST) != 1 or not cfg.DATASETS.TRAIN:
        raise InputError("DATASETS.TRAIN needs at least one data set, DATASETS.TEST exactly one")
    dims = cfg.MODEL.RPN.CONV_DIMS
    if not dims or any(width != -1 for width in dims):
        raise InputError(f"MODEL.RPN.CONV_DIMS {dims} is not supported; only -1, once or more")
    DetectorSpec(**detector_arguments(cfg))  # refuses what no detector here can be
    check_vitdet(cfg)


def architecture(cfg: CfgNode) -> str:
    """ "C4", "FPN", "TINY" or "VIT"."""
    return find(cfg.MODEL.BACKBONE.NAME, ARCHITECTURES, "MODEL.BACKBONE.NAME")


def backbone_name(cfg: CfgNode) -> str:
    """The trunk's name in pretrain.backbones, or timm's of a ViT, e.g. "resnet50"."""
    return DetectorSpec(**detector_arguments(cfg)).backbone_name


def detector_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Plain arguments of the torchvision engine's `build_detector`, but for the weights' filter."""
    model, box, mask = cfg.MODEL, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    rpn, roi = model.RPN, model.ROI_HEADS
    return {
        "architecture": architecture(cfg),
        "num_classes": roi.NUM_CLASSES,
        "mask_on": model.MASK_ON,
        "depth": model.RESNETS.DEPTH,
        "norm": model.RESNETS.NORM,
        "freeze_at": model.BACKBONE.FREEZE_AT,
        **vit_arguments(cfg),
        "stride_in_1x1": model.RESNETS.STRIDE_IN_1X1,
        "fpn_out_channels": model.FPN.OUT_CHANNELS,
        "fpn_norm": model.FPN.NORM,
        "anchor_sizes": tuple(map(tuple, model.ANCHOR_GENERATOR.SIZES)),
        "anchor_aspect_ratios": tuple(map(tuple, model.ANCHOR_GENERATOR.ASPECT_RATIOS)),
        "anchor_offset": model.ANCHOR_GENERATOR.OFFSET,
        "rpn_iou_thresholds": tuple(rpn.IOU_THRESHOLDS),
        "rpn_batch_size_per_image": rpn.BATCH_SIZE_PER_IMAGE,
        "rpn_positive_fraction": rpn.POSITIVE_FRACTION,
        "rpn_bbox_reg_weights": tuple(rpn.BBOX_REG_WEIGHTS),
        "rpn_pre_nms_topk_train": rpn.PRE_NMS_TOPK_TRAIN,
        "rpn_post_nms_topk_train": rpn.POST_NMS_TOPK_TRAIN,
        "rpn_pre_nms_topk_test": rpn.PRE_NMS_TOPK_TEST,
        "rpn_post_nms_topk_test": rpn.POST_NMS_TOPK_TEST,
        "rpn_nms_thresh": rpn.NMS_THRESH,
        "rpn_num_conv": len(rpn.CONV_DIMS),
        "extra_norm": roi.NAME == "Res5ROIHeadsExtraNorm",
        "roi_batch_size_per_image": roi.BATCH_SIZE_PER_IMAGE,
        "roi_positive_fraction": roi.POSITIVE_FRACTION,
        "roi_iou_threshold": roi.IOU_THRESHOLDS[0],
        "roi_proposal_append_gt": roi.PROPOSAL_APPEND_GT,
        "score_thresh_test": roi.SCORE_THRESH_TEST,
        "nms_thresh_test": roi.NMS_THRESH_TEST,
        "box_pooler_resolution": box.POOLER_RESOLUTION,
        "box_pooler_sampling_ratio": box.POOLER_SAMPLING_RATIO,
        "box_bbox_reg_weights": tuple(box.BBOX_REG_WEIGHTS),
        "box_head_num_conv": box.NUM_CONV,
        "box_head_conv_dim": box.CONV_DIM,
        "box_head_num_fc": box.NUM_FC,
        "box_head_fc_dim": box.FC_DIM,
        "box_head_norm": box.NORM,
        "mask_pooler_resolution": mask.POOLER_RESOLUTION,
        "mask_pooler_sampling_ratio": mask.POOLER_SAMPLING_RATIO,
        "mask_num_conv": mask.NUM_CONV,
        "mask_conv_dim": mask.CONV_DIM,
        "mask_norm": mask.NORM,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "pixel_mean": tuple(model.PIXEL_MEAN),
        "pixel_std": tuple(model.PIXEL_STD),
    }


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
    found, wanted = len(train_set.classes), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    builtin = [name for name in cfg.DATASETS.TRAIN if ":" not in name]
    if builtin and found != wanted:
        raise InputError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {wanted}, but {', '.join(builtin)} has {found} classes"
        )
    check_trainable(train_set)
    if cfg.MODEL.MASK_ON:
        check_masks(train_set, "annotate or remove them, or set MODEL.MASK_ON False")
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon" and train_set.has_run_lengths():
        raise InputError(
            f"some masks of {train_set.name} are run lengths, no polygons; set INPUT.MASK_FORMAT "
            "bitmask"
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
        if _get(cfg, key) != value:
            logger.warning(
                "%s %s of the config is replaced by %s, which the weights were trained with",
                key,
                _get(cfg, key),
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


def _get(cfg: CfgNode, key: str) -> Any:
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value
