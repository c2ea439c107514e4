"""From a config to a detector's plain arguments.

In: a merged detection config. Out: the fields of `DetectorSpec`, each from Detectron2's key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.lookup import find
from transfer.detection.config_vit import BACKBONE, vit_arguments
from transfer.detection.torchvision_engine.spec import DetectorSpec

ARCHITECTURES = {
    "build_resnet_backbone": "C4",
    "build_resnet_fpn_backbone": "FPN",
    "build_tiny_resnet_backbone": "TINY",
    BACKBONE: "VIT",
}


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
        "resnet_out_features": tuple(model.RESNETS.OUT_FEATURES),
        "fpn_in_features": tuple(model.FPN.IN_FEATURES),
        "rpn_in_features": tuple(rpn.IN_FEATURES),
        "roi_in_features": tuple(roi.IN_FEATURES),
        "fpn_out_channels": model.FPN.OUT_CHANNELS,
        "fpn_norm": model.FPN.NORM,
        "anchor_sizes": _rows(model.ANCHOR_GENERATOR.SIZES),
        "anchor_aspect_ratios": _rows(model.ANCHOR_GENERATOR.ASPECT_RATIOS),
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


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def _rows(table: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    """One row per feature map; a flat list is one row for all, as in Detectron2."""
    if table and not isinstance(table[0], (list, tuple)):
        return (tuple(table),)
    return tuple(map(tuple, table))
