"""Methods whose views all pass through one trunk and projector (SimCLR, VICReg, Barlow Twins).

Legend: V views, N images in this process's batch, F trunk features, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pretrain.methods.base import PairMethod, outcome
from pretrain.methods.encode import encode
from pretrain.methods.pairs import Pairs, pairs_of, views_in


class SharedEncoder(PairMethod):
    """Trunk and projector for all views; a subclass says what its `loss` of embeddings is."""

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
