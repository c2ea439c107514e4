"""The real Detectron2 as a `Side`; importing this needs it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine.hooks import PreciseBN
from detectron2.layers import get_norm
from detectron2.modeling import build_model
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import transfer.detection.detectron2_plugin  # noqa: F401  (registers ViTDet's backbone)
from tests.transfer.detection.equality.runs import SOLVER
from transfer.detection.torchvision_engine.spec import PYRAMIDS

# Fields of DetectorSpec and Detectron2's keys below MODEL; the others are named alike.
KEYS = {
    "depth": "RESNETS.DEPTH",
    "norm": "RESNETS.NORM",
    "stride_in_1x1": "RESNETS.STRIDE_IN_1X1",
    "freeze_at": "BACKBONE.FREEZE_AT",
    "fpn_norm": "FPN.NORM",
    "fpn_out_channels": "FPN.OUT_CHANNELS",
    "num_classes": "ROI_HEADS.NUM_CLASSES",
    "mask_on": "MASK_ON",
    "pixel_mean": "PIXEL_MEAN",
    "pixel_std": "PIXEL_STD",
    "anchor_sizes": "ANCHOR_GENERATOR.SIZES",
    "rpn_pre_nms_topk_train": "RPN.PRE_NMS_TOPK_TRAIN",
    "rpn_post_nms_topk_train": "RPN.POST_NMS_TOPK_TRAIN",
    "rpn_pre_nms_topk_test": "RPN.PRE_NMS_TOPK_TEST",
    "rpn_post_nms_topk_test": "RPN.POST_NMS_TOPK_TEST",
    "rpn_batch_size_per_image": "RPN.BATCH_SIZE_PER_IMAGE",
    "roi_batch_size_per_image": "ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "score_thresh_test": "ROI_HEADS.SCORE_THRESH_TEST",
    "box_pooler_resolution": "ROI_BOX_HEAD.POOLER_RESOLUTION",
    "box_head_num_fc": "ROI_BOX_HEAD.NUM_FC",
    "box_head_fc_dim": "ROI_BOX_HEAD.FC_DIM",
    "box_head_num_conv": "ROI_BOX_HEAD.NUM_CONV",
    "box_head_conv_dim": "ROI_BOX_HEAD.CONV_DIM",
    "box_head_norm": "ROI_BOX_HEAD.NORM",
    "mask_num_conv": "ROI_MASK_HEAD.NUM_CONV",
    "mask_conv_dim": "ROI_MASK_HEAD.CONV_DIM",
    "mask_norm": "ROI_MASK_HEAD.NORM",
}

# They replace the usual ones of an architecture.
FEATURES = {
    "resnet_out_features": ("RESNETS", "OUT_FEATURES"),
    "fpn_in_features": ("FPN", "IN_FEATURES"),
    "rpn_in_features": ("RPN", "IN_FEATURES"),
    "roi_in_features": ("ROI_HEADS", "IN_FEATURES"),
}


class Theirs:
    """See `Side`."""

    def build(self, fields: Mapping[str, Any]) -> nn.Module:
        cfg = detectron2_config(fields)
        model = build_model(cfg)
        if fields.get("extra_norm"):
            model.roi_heads.res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, 2048))
        return model

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        with EventStorage():
            return model(to_detectron2(batch, model))

    def detect(self, model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        with torch.no_grad():
            results = [result["instances"] for result in model(to_detectron2(batch, model))]
        found = []
        for result in results:
            parts = {
                "boxes": result.pred_boxes.tensor,
                "scores": result.scores,
                "classes": result.pred_classes,
            }
            if result.has("pred_masks"):
                parts["masks"] = result.pred_masks
            found.append(parts)
        return found

    def optimizer(
        self, model: nn.Module, adamw: Mapping[str, float] | None
    ) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
        cfg = get_cfg()
        for name, value in SOLVER.items():
            setattr(cfg.SOLVER, name.upper(), value)
        optimizer = build_adamw(model, **adamw) if adamw else build_optimizer(cfg, model)
        scheduler = build_lr_scheduler(cfg, optimizer)
        # Detectron2 advances after an iteration; the first one has its rate already.
        return optimizer, lambda iteration: scheduler.step() if iteration else None

    def precise_bn(self, model: nn.Module, batches: list[list[dict[str, Any]]]) -> None:
        converted = [to_detectron2(batch, model) for batch in batches]
        hook = PreciseBN(1, model, converted, len(converted))
        with EventStorage():
            hook.update_stats()


def build_adamw(
    model: nn.Module, base_lr: float, weight_decay: float, layer_decay: float
) -> torch.optim.Optimizer:
    """As Detectron2's configs of ViTDet make it."""
    params = get_default_optimizer_params(
        model,
        base_lr=base_lr,
        weight_decay_norm=0.0,
        lr_factor_func=partial(
            get_vit_lr_decay_rate,
            num_layers=len(model.backbone.net.blocks),
            lr_decay_rate=layer_decay,
        ),
        overrides={"pos_embed": {"weight_decay": 0.0}},
    )
    return torch.optim.AdamW(params, lr=base_lr, betas=(0.9, 0.999), weight_decay=weight_decay)


def detectron2_config(fields: Mapping[str, Any]) -> CfgNode:
    """Detectron2's config of the same detector."""
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE = "cpu"
    cfg.TEST.DETECTIONS_PER_IMAGE = fields.get("detections_per_image", 100)
    for field, value in fields.items():
        if field in KEYS:
            path = KEYS[field].split(".")
            node = model[path[0]] if len(path) == 2 else model
            node[path[-1]] = [list(v) for v in value] if field == "anchor_sizes" else value
        elif field.startswith("vit_"):
            cfg.TRANSFER.VIT[field[4:].upper()] = value
    model.RPN.CONV_DIMS = [-1] * fields.get("rpn_num_conv", 1)
    if fields.get("depth") == 18:
        model.RESNETS.RES2_OUT_CHANNELS = 64
    _set_features(model, fields)
    return cfg


def _set_features(model: CfgNode, fields: Mapping[str, Any]) -> None:
    """The heads that go with a pyramid, and which feature maps each part takes."""
    if fields["architecture"] == "FPN":
        model.BACKBONE.NAME = "build_resnet_fpn_backbone"
        model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
        model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    if fields["architecture"] == "VIT":
        model.BACKBONE.NAME = "build_vit_sfp_backbone"
    if fields["architecture"] in PYRAMIDS:
        model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
        model.ROI_HEADS.NAME = "StandardROIHeads"
        model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
        model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    for field, (section, key) in FEATURES.items():
        if field in fields:
            model[section][key] = list(fields[field])


def to_detectron2(batch: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The batch in Detectron2's types, with masks where the model trains them."""
    converted = []
    for sample in copy.deepcopy(batch):
        instances = Instances(tuple(sample["image"].shape[1:]))
        instances.gt_boxes = Boxes(sample.pop("boxes"))
        instances.gt_classes = sample.pop("classes")
        polygons = sample.pop("polygons")
        if hasattr(model.roi_heads, "mask_head"):
            instances.gt_masks = PolygonMasks(polygons)
        converted.append({**sample, "instances": instances})
    return converted
