"""Our torchvision engine as a `Side`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.transfer.detection.equality.runs import SOLVER
from transfer.detection.schedule import Schedule, build_optimizer, param_groups, set_rates
from transfer.detection.torchvision_engine.build import build_detector
from transfer.detection.torchvision_engine.precise_bn import update_bn_stats


class Ours:
    """See `Side`."""

    def build(self, fields: Mapping[str, Any]) -> nn.Module:
        return build_detector(**fields)

    def losses(self, model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        return model(batch)

    def detect(self, model: nn.Module, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        found = []
        for detections in model(batch):
            parts = {name: getattr(detections, name) for name in ("boxes", "scores", "classes")}
            if detections.masks is not None:
                parts["masks"] = detections.masks
            found.append(parts)
        return found

    def optimizer(self, model: nn.Module) -> tuple[torch.optim.Optimizer, Callable[[int], None]]:
        groups = param_groups(
            model,
            weight_decay=SOLVER["weight_decay"],
            weight_decay_norm=SOLVER["weight_decay_norm"],
            base_lr=SOLVER["base_lr"],
        )
        optimizer = build_optimizer(
            groups,
            name="SGD",
            base_lr=SOLVER["base_lr"],
            momentum=SOLVER["momentum"],
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
