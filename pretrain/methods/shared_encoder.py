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
    """Applies one trunk and projector to all views; a subclass defines its `loss` of embeddings."""

    def loss(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Returns named scalar terms of embeddings (V, N, D); their sum is the loss."""
        raise NotImplementedError

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        gradient: Tensor | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`. Raises ValueError if the branches do not give any pair.

        Args:
            gradient: the gradient of a loss with respect to the embeddings of these views; the
                returned loss then has this gradient (see `pretrain/engine/grad_cache.py`).
        """
        features, z = self.embed(views, branches)
        if gradient is not None:
            return outcome({"passed_on": (z * gradient).sum()}, features)
        return outcome(self.compare(z, branches), features)

    def embed(self, views: Sequence[Tensor], branches: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the trunk's features (N, F) of the first view, and the embeddings of the views
        that the loss compares, stacked (views, N, D).
        """
        chosen = self._compared(branches)
        features, z = encode(self._network, views, chosen, branches, self.joint_forward)
        return features[chosen[0]], torch.stack([z[view] for view in chosen])

    def compare(self, z: Tensor, branches: Sequence[int]) -> dict[str, Tensor]:
        """Returns the terms of the loss, given the embeddings that `embed` returned."""
        place = {view: number for number, view in enumerate(self._compared(branches))}
        pairs = pairs_of(self.pairing, branches)
        return self.loss(z, [(place[a], place[b]) for a, b in pairs])

    def _compared(self, branches: Sequence[int]) -> list[int]:
        pairs = pairs_of(self.pairing, branches)
        return views_in([*pairs, *[(b, a) for a, b in pairs]], 0)

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.trunk(images)
        return pooled, self.projector(pooled)
