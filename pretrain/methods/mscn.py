"""Masked Siamese ConvNets (Jing, Zhu, LeCun; arXiv 2206.07700): masked views in, a loss out.

The masks, the filter and the noise belong to the views (pretrain/data); the method is how a loss of
two views is applied to more: to each pair of views from different branches, averaged.
Legend: V views, N images in this process's batch, F trunk features, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pretrain.losses.similarity import nt_xent_pairs
from pretrain.methods.simclr import embed

Pairs = list[tuple[int, int]]


def cross_pairs(branches: Sequence[int]) -> Pairs:
    """Each view of branch 0 with each view of branch 1 (the paper's "asymmetric pairs")."""
    first = [view for view, branch in enumerate(branches) if branch == 0]
    second = [view for view, branch in enumerate(branches) if branch == 1]
    return [(a, b) for a in first for b in second]


def all_pairs(branches: Sequence[int]) -> Pairs:
    """Every two views, whatever their branch."""
    views = range(len(branches))
    return [(a, b) for a in views for b in views if a < b]


PAIRINGS: dict[str, Callable[[Sequence[int]], Pairs]] = {"cross": cross_pairs, "all": all_pairs}


class NTXent(nn.Module):
    """SimCLR's loss as a base: a module, since other bases will hold parameters of their own."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, z: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        """Embeddings (V, N, D) to named scalar terms, whose sum is the loss."""
        return {"nt_xent": nt_xent_pairs(z, pairs, self.temperature)}


BASES: dict[str, type[NTXent]] = {"simclr": NTXent}


class MSCN(nn.Module):
    """Trunk, projector and a base loss on the configured pairs of views."""

    def __init__(
        self,
        trunk: nn.Module,
        projector: nn.Module,
        base: nn.Module,
        *,
        pairing: Callable[[Sequence[int]], Pairs] = cross_pairs,
        joint_forward: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.projector = projector
        self.base = base
        self.pairing = pairing
        self.joint_forward = joint_forward

    def forward(self, views: Tensor, branches: Sequence[int]) -> dict[str, Any]:
        """Views (V, N, 3, H, W), normalised and masked, view v of branch `branches[v]` (0 or 1).

        Returns loss, detached `terms` to log, and the trunk's detached `features` (V, N, F).
        Raises ValueError when the branches give no pair.
        """
        pairs = self.pairing(branches)
        if not pairs:
            raise ValueError(f"no pair of views among branches {list(branches)}")
        features, z = embed(self.trunk, self.projector, views, branches, self.joint_forward)
        terms = self.base(z, pairs)
        loss = sum(terms.values())
        detached = {name: term.detach() for name, term in terms.items()}
        return {"loss": loss, "terms": detached, "features": features.detach()}
