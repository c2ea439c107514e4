"""MoCo v3 (Chen, Xie, He; arXiv 2104.02057): predictor, momentum encoder, negatives in the batch.

Facts about the authors' code: facebookresearch/moco-v3 moco/builder.py. N images, D embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pretrain.losses.similarity import batch_contrast
from pretrain.methods.byol import MomentumPredictor
from pretrain.methods.target import Momentum


class MoCoV3(MomentumPredictor):
    """Compares each view's predictions with the momentum keys of the other view of all images.

    We apply the momentum of a step after its update. The authors apply the momentum of the next
    step before the next forward pass. The copies are the same, except that the schedule differs by
    at most one step.

    This is the authors' ResNet version. Their ViT version is not implemented. There the predictor
    ends in a batch norm, position embeddings are fixed sine-cosine ones, weights are initialised
    differently and the patch embedding is frozen.
    """

    term = "contrast"

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        momentum: Momentum,
        *,
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        """Args: options: passed to `PairMethod`."""
        super().__init__(trunk, projector, predictor, momentum, **options)
        self.temperature = temperature

    def direction_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the cross-entropy over the global batch, times 2 * temperature."""
        return batch_contrast(prediction, target, self.temperature)
