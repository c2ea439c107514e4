"""Methods whose views all pass through one trunk and projector (SimCLR, VICReg, Barlow Twins).

Legend: V views, N images in this process's batch, F trunk features, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.methods.base import Method, outcome
from pretrain.methods.encode import encode
from pretrain.methods.pairs import Pairing, Pairs, cross_pairs, pairs_of, views_in


class SharedEncoder(Method):
    """Trunk and projector; a subclass says what its `loss` of embeddings is.

    Args:
        pairing: the pairs of views that are compared; two views have one.
        joint_forward: one pass over all views, else one for each branch.
    """

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        *,
        pairing: Pairing = cross_pairs,
        joint_forward: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.projector = projector
        self.pairing = pairing
        self.joint_forward = joint_forward

    def loss(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Embeddings (V, N, D) to named scalar terms, whose sum is the loss."""
        raise NotImplementedError

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`. Raises ValueError when the branches give no pair."""
        pairs = pairs_of(self.pairing, branches)
        chosen = views_in([*pairs, *[(b, a) for a, b in pairs]], 0)
        place = {view: number for number, view in enumerate(chosen)}
        features, z = encode(self._network, views, chosen, branches, self.joint_forward)
        stacked = torch.stack([z[view] for view in chosen])
        terms = self.loss(stacked, [(place[a], place[b]) for a, b in pairs])
        return outcome(terms, features[chosen[0]])

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.trunk(images)
        return pooled, self.projector(pooled)
