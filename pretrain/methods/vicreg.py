"""VICReg (Bardes, Ponce, LeCun; arXiv 2105.04906): invariance, variance, covariance.

Legend: V views, N images in this process's batch, D embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pretrain.losses.redundancy import invariance, variance_and_covariance
from pretrain.methods.pairs import Pairs
from pretrain.methods.shared_encoder import SharedEncoder


class VICReg(SharedEncoder):
    """Trains a trunk and an expander with VICReg's loss. The source of the loss weights is
    facebookresearch/vicreg main_vicreg.py.
    """

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        *,
        weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
        **options: Any,
    ) -> None:
        """Args: weights: those of invariance, variance, covariance; options: for `PairMethod`."""
        super().__init__(trunk, projector, **options)
        self.weights = weights

    def loss(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Returns weighted terms: the invariance is a mean over pairs, the others over views."""
        variance, covariance = variance_and_covariance(z)
        return {
            "invariance": self.weights[0] * invariance(z, pairs),
            "variance": self.weights[1] * variance,
            "covariance": self.weights[2] * covariance,
        }
