"""Supervised classification, the baseline row of every table: one view and its label in.

Recipe: pytorch/examples imagenet/main.py. N images in this process's batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pretrain.methods.base import Method, outcome
from pretrain.methods.encode import channels_last


class Supervised(Method):
    """Trains the trunk and a linear classifier with cross-entropy."""

    def __init__(self, trunk: nn.Module, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(in_dim, num_classes)

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`; `labels` (N,) are in 0..C-1. The term `top1` is the batch's
        accuracy.
        """
        if labels is None:
            raise ValueError("supervised training needs labels")
        pooled = self.trunk(channels_last(views[0]))
        logits = self.classifier(pooled).float()
        result = outcome({"cross_entropy": cross_entropy(logits, labels)}, pooled)
        result["terms"]["top1"] = 100.0 * (logits.argmax(dim=1) == labels).float().mean()
        return result
