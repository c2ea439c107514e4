"""Our torchvision engine as a `Side`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.optim.schedules import set_rates
from tests.transfer.detection.equality.runs import SOLVER
from tests.transfer.detection.specs import make_detector
from transfer.detection.torchvision_engine.precise_bn import update_bn_stats
from transfer.training.optimizer import build_optimizer, param_groups, vit_layer_factor
from transfer.training.schedule import Schedule


class Ours:
    """See `Side`."""

    def build(self, keys: Mapping[str, Any]) -> nn.Module:
        return make_detector(keys)

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return model(batch)

    def detect(self, model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        found = []
        for detections in model(batch):
            parts = {name: getattr(detections, name) for name in ("boxes", "scores", "classes")}
            if detections.masks is not None:
                parts["masks"] = detections.masks
            if detections.keypoints is not None:
                parts["keypoints"] = detections.keypoints
            found.append(parts)
        return found

    def optimizer(
        self, model: nn.Module, adamw: Mapping[str, float] | None
    ) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
        solver = {**SOLVER, **(adamw or {})}
        vit = getattr(model.spec.backbone, "vit", None)
        groups = param_groups(
            model,
            weight_decay=solver["weight_decay"],
            weight_decay_norm=solver["weight_decay_norm"],
            base_lr=solver["base_lr"],
            weight_decay_pos_embed=0.0,
            layer_factor=partial(
                vit_layer_factor,
                decay=solver.get("layer_decay", 1.0),
                depth=12 if vit is None else vit.depth,  # without a ViT no name has a block
            ),
        )
        optimizer = build_optimizer(
            groups,
            name="AdamW" if adamw else "SGD",
            base_lr=solver["base_lr"],
            momentum=solver["momentum"],
            nesterov=False,
        )
        schedule = Schedule(
            "WarmupMultiStepLR",
            SOLVER["max_iter"],
            steps=SOLVER["steps"],
            warmup_iters=SOLVER["warmup_iters"],
            warmup_factor=SOLVER["warmup_factor"],
        )
        return optimizer, lambda iteration: set_rates(optimizer, schedule.factor(iteration))

    def precise_bn(self, model: nn.Module, batches: list[list[dict[str, Any]]]) -> None:
        update_bn_stats(model, batches, len(batches))
