"""Barlow Twins (Zbontar et al., arXiv 2103.03230): the views' cross-correlation near identity.

Legend: V views, N images in this process's batch, D embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pretrain.losses.redundancy import barlow_pairs
from pretrain.methods.pairs import Pairs
from pretrain.methods.shared_encoder import SharedEncoder


class BarlowTwins(SharedEncoder):
    """Trains a trunk and a projector with Barlow Twins' loss."""

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        *,
        off_diagonal_weight: float = 0.0051,  # facebookresearch/barlowtwins main.py
        **options: Any,
    ) -> None:
        """Args: options: passed to `PairMethod`."""
        super().__init__(trunk, projector, **options)
        self.off_diagonal_weight = off_diagonal_weight

    def loss(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Returns the terms `on_diagonal` and `off_diagonal` of embeddings (V, N, D)."""
        return barlow_pairs(z, pairs, self.off_diagonal_weight)
