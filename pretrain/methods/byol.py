"""BYOL (Grill et al., arXiv 2006.07733): an online network predicts a slow copy of itself.

Facts about the authors' code: google-deepmind/deepmind-research byol/byol_experiment.py.
Legend: V views, N images in this process's batch, F trunk features, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretrain.losses.similarity import normalized_error
from pretrain.methods.base import PairMethod, outcome
from pretrain.methods.encode import encode
from pretrain.methods.pairs import both_directions, pairs_of, views_in
from pretrain.methods.target import Momentum, make_target, update_target


class MomentumPredictor(PairMethod):
    """Compares trunk, projector and predictor with a momentum copy of trunk and projector, in both
    directions.

    This is the common part of BYOL and MoCo v3; a subclass defines the `direction_loss`.
    """

    term = "loss"

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        momentum: Momentum,
        **options: Any,
    ) -> None:
        """Args: options: passed to `PairMethod`."""
        super().__init__(trunk, projector, **options)
        self.predictor = predictor
        self.target_trunk = make_target(trunk)
        self.target_projector = make_target(projector)
        self.momentum = momentum

    def direction_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns the scalar loss of predictions and targets (N, D) of one direction."""
        raise NotImplementedError

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`: the mean over pairs of the sum of both directions' losses."""
        pairs = pairs_of(self.pairing, branches)
        directions = both_directions(pairs)
        shared = (branches, self.joint_forward)
        with torch.no_grad():
            (keys,) = encode(self._target, views, views_in(directions, 1), *shared)
        online = views_in(directions, 0)
        features, predictions = encode(self._online, views, online, *shared)
        losses = [self.direction_loss(predictions[a], keys[b]) for a, b in directions]
        terms = {self.term: torch.stack(losses).sum() / len(pairs)}
        return outcome(terms, features[online[0]])

    def after_step(self, step: int, total_steps: int) -> None:
        """Moves the target towards the online network."""
        momentum = self.momentum.at(step, total_steps)
        update_target(self.target_trunk, self.trunk, momentum)
        update_target(self.target_projector, self.projector, momentum)

    def constant_rate(self) -> list[nn.Parameter]:
        """Returns the predictor's parameters."""
        return list(self.predictor.parameters())

    def _online(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.trunk(images)
        return pooled, self.predictor(self.projector(pooled))

    def _target(self, images: Tensor) -> tuple[Tensor]:
        return (self.target_projector(self.target_trunk(images)),)


class BYOL(MomentumPredictor):
    """Compares each view's prediction with the target's projection of the other view.

    It differs from the authors' code in two points. Both networks start with the same weights
    (theirs are initialised independently; they report no difference), and there is no online linear
    classifier.
    """

    term = "regression"

    def direction_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Returns 2 - 2 cosine, mean over images."""
        return normalized_error(prediction, target)
