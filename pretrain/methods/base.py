"""The interface between a method and the training loop: a loss of views, and work after each step.

Legend: V views, N images in this process's batch, F trunk features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.methods.pairs import Pairing, cross_pairs


class Method(nn.Module):
    """Contains a trunk and the parts that are trained with it.

    `trunk` is the backbone whose weights transfer. It has the same prefix in every checkpoint.
    """

    trunk: nn.Module

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """Computes the loss of V views (N, 3, H, W) of branches 0 (A), 1 (B) or 2 (focal),
        normalised and masked.

        Args:
            labels: (N,) int64, -1 if unknown; only supervised training reads them.
            generator: for the method's random draws (patch masks, the order of MoCo's shuffle).

        Returns:
            `loss`, detached `terms` to log by name, the trunk's detached `features` (N, F).
        """
        raise NotImplementedError

    def after_step(self, step: int, total_steps: int) -> None:
        """Is called after the optimizer's update in step 0..total_steps-1, unless it is skipped."""

    def constant_rate(self) -> list[nn.Parameter]:
        """Returns parameters whose learning rate stays at the base learning rate (SimSiam's
        predictor).
        """
        return []

    def without_decay(self) -> list[nn.Parameter]:
        """Returns matrices that get no weight decay and no clipping (MSN's prototypes)."""
        return []


class PairMethod(Method):
    """Is a two-view method, applied to pairs if there are more views. It has a trunk and a
    projector.

    Args:
        pairing: selects the pairs of views that are compared; two views form one pair.
        joint_forward: run all views of a network in one pass, with one set of batch-norm
            statistics; otherwise run one pass for each branch.
    """

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        *,
        pairing: Pairing = cross_pairs,
        joint_forward: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.projector = projector
        self.pairing = pairing
        self.joint_forward = joint_forward


def outcome(terms: Mapping[str, Tensor], features: Tensor) -> dict[str, Any]:
    """Returns the dictionary that `forward` returns, for a loss that is the sum of its terms."""
    return {
        "loss": torch.stack(list(terms.values())).sum(),
        "terms": {name: term.detach() for name, term in terms.items()},
        "features": features.detach(),
    }
