"""Masked Siamese Networks (Assran et al., arXiv 2204.07141): masked ViT anchors are assigned to
prototypes in the same way as an unmasked target view.

Facts about the authors' code: facebookresearch/msn src/msn_train.py, src/deit.py, CC-BY-NC; nothing
is taken from it. Legend: N images in this process's batch, L patches of an image, D embedding,
K prototypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretrain.backbones.vit import encode_tokens, patch_side, random_orders
from pretrain.losses.assignment import msn_terms
from pretrain.methods.base import Method, outcome
from pretrain.methods.encode import channels_last
from pretrain.methods.target import Momentum, make_target, update_target

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

ANCHOR, TARGET, FOCAL = 0, 1, 2


class MSN(Method):
    """Contains the anchor network (trained), the target network (its momentum copy), and
    prototypes.

    `trunk` is the *target's* ViT, because the authors evaluate and transfer its weights. The views
    of branch A are anchors with dropped patches, focal views are anchors without dropping, and the
    one view of branch B is the target. The position embedding of focal views is resampled
    bicubically with antialiasing, as in timm; the authors' code does not use antialiasing.

    Args:
        patch_drop: share of an anchor's patches that is dropped. It is drawn for each image; the
            authors' code draws once for a process's batch.
        sharpening: temperature of the targets' sharpening.
        weights: those of the mean-entropy and the entropy term.
        balance: apply Sinkhorn to the targets.
    """

    trunk: VisionTransformer

    def __init__(
        self,
        anchor_trunk: VisionTransformer,
        anchor_projector: nn.Module,
        momentum: Momentum,
        *,
        num_prototypes: int = 1024,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        patch_drop: float = 0.15,
        weights: tuple[float, float] = (1.0, 0.0),
        balance: bool = True,
    ) -> None:
        super().__init__()
        init_as_msn(anchor_trunk, anchor_projector)
        self.anchor_trunk = anchor_trunk
        self.anchor_projector = anchor_projector
        self.trunk = make_target(anchor_trunk)
        self.target_projector = make_target(anchor_projector)
        out_dim = [m for m in anchor_projector.modules() if isinstance(m, nn.Linear)][-1]
        bound = out_dim.out_features**-0.5
        drawn = torch.empty(num_prototypes, out_dim.out_features).uniform_(-bound, bound)
        self.prototypes = nn.Parameter(drawn)
        self.momentum = momentum
        self.temperature = temperature
        self.sharpening = sharpening
        self.patch_drop = patch_drop
        self.weights = weights
        self.balance = balance

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`. Terms are weighted; `features` are the target's class tokens."""
        dropped = [view for view, branch in zip(views, branches) if branch == ANCHOR]
        focal = [view for view, branch in zip(views, branches) if branch == FOCAL]
        (target,) = [view for view, branch in zip(views, branches) if branch == TARGET]
        embedded = self._anchors(dropped, self.patch_drop, generator)
        if focal:
            embedded = torch.cat([embedded, self._anchors(focal, 0.0, generator)])
        with torch.no_grad():
            pooled = self.trunk(channels_last(target))
            wanted = self.target_projector(pooled)
        terms = msn_terms(
            embedded,
            wanted,
            self.prototypes,
            temperature=self.temperature,
            target_sharpening=self.sharpening,
            balance=self.balance,
        )
        terms["mean_entropy"] = self.weights[0] * terms["mean_entropy"]
        terms["entropy"] = self.weights[1] * terms["entropy"]
        return outcome(terms, pooled)

    def after_step(self, step: int, total_steps: int) -> None:
        """Moves the target towards the anchor network."""
        momentum = self.momentum.at(step, total_steps)
        update_target(self.trunk, self.anchor_trunk, momentum)
        update_target(self.target_projector, self.anchor_projector, momentum)

    def without_decay(self) -> list[nn.Parameter]:
        """Returns the prototypes."""
        return [self.prototypes]

    def _anchors(
        self, views: Sequence[Tensor], drop: float, generator: torch.Generator | None
    ) -> Tensor:
        """Returns embeddings (A, N, D) of A views (N, 3, S, S)."""
        images = torch.cat(list(views))
        keep = None
        if drop > 0:
            side = patch_side(self.anchor_trunk)
            patches = (images.shape[2] // side) * (images.shape[3] // side)
            order = random_orders(len(images), patches, generator, images.device)
            keep = order[:, : int(patches * (1 - drop))]
        tokens = encode_tokens(self.anchor_trunk, channels_last(images), keep)
        return self.anchor_projector(tokens[:, 0]).unflatten(0, (len(views), -1))


def init_as_msn(trunk: VisionTransformer, projector: nn.Module) -> None:
    """Initialises patch embedding, class embedding and projector as MSN does, unlike timm."""
    patches = trunk.patch_embed.proj
    nn.init.kaiming_normal_(patches.weight, mode="fan_in", nonlinearity="relu")
    assert trunk.cls_token is not None  # as `is_vit` asks
    nn.init.trunc_normal_(trunk.cls_token, std=0.02)
    biases = [patches.bias]
    for module in projector.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            biases.append(module.bias)
    for bias in biases:
        if bias is not None:
            nn.init.zeros_(bias)
