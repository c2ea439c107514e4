"""SimSiam (Chen, He; arXiv 2011.10566): predictor and stop-gradient, nothing else against collapse.

Facts about the authors' code: facebookresearch/simsiam simsiam/builder.py, main_simsiam.py.
Legend: V views, N images in this process's batch, F trunk features, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.common.collapse_statistics import feature_std_tensor
from pretrain.losses.similarity import negative_cosine
from pretrain.methods.base import PairMethod, outcome
from pretrain.methods.encode import encode
from pretrain.methods.pairs import both_directions, pairs_of, views_in


class SimSiam(PairMethod):
    """Trains trunk, projector and predictor with D(p1, z2) / 2 + D(p2, z1) / 2 for each pair of
    views.

    The authors watch the term `output_std` for collapse. It is the mean over dimensions of the
    standard deviation of z / |z|: near 1 / sqrt(D) in a healthy run and 0 after a collapse.
    """

    def __init__(
        self, trunk: nn.Module, projector: nn.Module, predictor: nn.Module, **options: Any
    ) -> None:
        """Args: options: passed to `PairMethod`."""
        super().__init__(trunk, projector, **options)
        self.predictor = predictor

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`."""
        pairs = pairs_of(self.pairing, branches)
        directions = both_directions(pairs)
        chosen = views_in(directions, 0)
        features, z, p = encode(self._network, views, chosen, branches, self.joint_forward)
        losses = [negative_cosine(p[a], z[b]) / 2 for a, b in directions]
        result = outcome(
            {"negative_cosine": torch.stack(losses).sum() / len(pairs)}, features[chosen[0]]
        )
        result["terms"]["output_std"] = feature_std_tensor(z[chosen[0]].detach())
        return result

    def constant_rate(self) -> list[nn.Parameter]:
        """Returns the predictor's parameters."""
        return list(self.predictor.parameters())

    def _network(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = self.trunk(images)
        z = self.projector(pooled)
        return pooled, z, self.predictor(z)
