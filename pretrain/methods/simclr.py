"""SimCLR (Chen et al., arXiv 2002.05709 and 2006.10029): NT-Xent on pairs of views.

Legend: V views, N images in this process's batch, D embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pretrain.losses.similarity import nt_xent_pairs
from pretrain.methods.pairs import Pairs
from pretrain.methods.shared_encoder import SharedEncoder


class SimCLR(SharedEncoder):
    """Trains a trunk and a projector with NT-Xent."""

    def __init__(
        self, trunk: nn.Module, projector: nn.Module, *, temperature: float = 0.1, **options: Any
    ) -> None:
        """Args: options: passed to `PairMethod`."""
        super().__init__(trunk, projector, **options)
        self.temperature = temperature

    def loss(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Returns one term, `nt_xent`, of embeddings (V, N, D)."""
        return {"nt_xent": nt_xent_pairs(z, pairs, self.temperature)}
