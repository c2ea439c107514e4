"""Masked Siamese ConvNets (Jing, Zhu, LeCun; arXiv 2206.07700): masked multi-view on any loss of
two views.

The masks, the filter and the noise belong to the views (pretrain/data). The method is how a loss of
two views is applied to more: each joint-embedding method here takes the pairs of views it compares,
and its loss is the mean over those pairs of the two-view loss of that pair alone. METHOD.BASE names
the loss; this module says what MSCN adds to it. With one view a branch, no mask and no filter,
MSCN is its base method bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.methods.pairs import PAIRINGS, Pairing, cross_pairs
from pretrain.methods.table import MSCN


def pairing_of(method: str, pairs: str) -> Pairing:
    """The pairs of MSCN as METHOD.PAIRS names them; its base methods compare A with B."""
    return PAIRINGS[pairs] if method == MSCN else cross_pairs


def online_branch(method: str, masked_shares: Sequence[float]) -> int:
    """The branch (0 or 1) on the online side of an asymmetric base (MoCo v1, v2).

    MSCN's online network sees the more masked branch, its target the less masked one, as far as
    the base method has one direction only; with equal shares, and in the base methods
    themselves, branch A is online.

    Args:
        masked_shares: expected share of masked pixels in branches A and B.
    """
    return 1 if method == MSCN and masked_shares[1] > masked_shares[0] else 0
