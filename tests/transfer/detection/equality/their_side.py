"""The real Detectron2 as a `Side`; importing this needs it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine.hooks import PreciseBN
from detectron2.modeling import build_model
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.solver.build import get_default_optimizer_params
from detectron2.structures import Boxes, Instances, Keypoints, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

import transfer.detection.detectron2_plugin  # noqa: F401  (registers our heads and backbones)
from tests.transfer.detection.equality.runs import SOLVER


class Theirs:
    """See `Side`."""

    def build(self, keys: Mapping[str, Any]) -> nn.Module:
        return build_model(detectron2_config(keys))

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        # TorchScript rewrites the focal loss at its third call, and rounds its gradients otherwise.
        with EventStorage(), torch.jit.optimized_execution(False):
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
            if result.has("pred_keypoints"):
                parts["keypoints"] = result.pred_keypoints
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
    """Built as in Detectron2's configs of ViTDet."""
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


def detectron2_config(keys: Mapping[str, Any]) -> CfgNode:
    """Detectron2's config of the same detector."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    for key, value in keys.items():
        *parents, last = key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        assert last in node, key
        node[last] = value
    return cfg


def to_detectron2(batch: list[dict[str, Any]], model: nn.Module) -> list[dict[str, Any]]:
    """The batch in Detectron2's types, with masks and keypoints where the model trains them."""
    converted = []
    for sample in copy.deepcopy(batch):
        instances = Instances(tuple(sample["image"].shape[1:]))
        instances.gt_boxes = Boxes(sample.pop("boxes"))
        instances.gt_classes = sample.pop("classes")
        polygons = sample.pop("polygons")
        if hasattr(getattr(model, "roi_heads", None), "mask_head"):
            instances.gt_masks = PolygonMasks(polygons)
        keypoints = sample.pop("keypoints")
        if hasattr(getattr(model, "roi_heads", None), "keypoint_head"):
            instances.gt_keypoints = Keypoints(keypoints)
        converted.append({**sample, "instances": instances})
    return converted
