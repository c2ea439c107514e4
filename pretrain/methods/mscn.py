"""Masked Siamese ConvNets (Jing, Zhu, LeCun; arXiv 2206.07700): the map of the method.

MSCN adds five ideas to a siamese method. In the order in which they are applied to an image:

1. A high-pass filter on each augmented view, so that the value 0 means "no information" and a mask
   makes no edge: `pretrain/data/highpass.py`, keys HIGHPASS.
2. Masks of grid cells, or of all but one region (focal). They are drawn for all channels together
   or for each channel: `pretrain/data/masking.py`, keys MASK.
3. Noise in the masked pixels, so that the masked area does not reveal the view's colours:
   `apply_mask` in the same file, keys MASK.FILL and MASK.NOISE.
4. Asymmetry: the two branches mask with different probabilities, and the more masked branch is the
   online one of an asymmetric loss: `online_branch` below, keys VIEWS.A and VIEWS.B.
5. Several masked views of each image, compared in asymmetric pairs: `pairing_of` below,
   `pretrain/methods/pairs.py`, keys VIEWS.A.COUNT, VIEWS.B.COUNT and METHOD.PAIRS.

`pretrain/data/views.py` applies 1 to 3 in order to each view. METHOD.BASE names a loss of two views
(one of `all_methods.BASES`); its mean over the pairs is MSCN's loss. With one view per branch, no
mask and no filter, MSCN equals its base method bit for bit. The paper's recipe is
`configs/pretrain/mscn_r50.yaml`.

The authors' second version is "Masked Siamese ConvNets: Towards an Effective Masking Strategy for
General-purpose Siamese Networks" (ICLR 2023 submission, openreview.net/forum?id=NnHz2rU0Hjp). We
did not have its hyper-parameters, so everything here follows the first version.
"""

from __future__ import annotations

from collections.abc import Sequence

from pretrain.methods.all_methods import MSCN
from pretrain.methods.pairs import PAIRINGS, Pairing, cross_pairs


def pairing_of(method: str, pairs: str) -> Pairing:
    """Returns the pairing of MSCN that METHOD.PAIRS names; the base methods compare A with B."""
    return PAIRINGS[pairs] if method == MSCN else cross_pairs


def online_branch(method: str, masked_view_shares: Sequence[float]) -> int:
    """Returns the branch (0 or 1) on the online side of an asymmetric base (MoCo v1, v2).

    If the base method has only one direction, MSCN's online network sees the more masked branch,
    and its target sees the less masked one. If the shares are equal, and in the base methods
    themselves, branch A is online.

    Args:
        masked_view_shares: share of the views of branches A and B that are masked.
    """
    return 1 if method == MSCN and masked_view_shares[1] > masked_view_shares[0] else 0
