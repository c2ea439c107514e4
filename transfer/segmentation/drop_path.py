"""Stochastic depth of a ViT's or a ConvNeXt's blocks (Huang et al. 2016, arXiv 1603.09382)."""

from __future__ import annotations

import torch
from torch import nn

PLACES = ("drop_path", "drop_path1", "drop_path2")  # timm's names, in a ConvNeXt and in a ViT


def add_drop_path(trunk: nn.Module, rate: float) -> None:
    """Drops the branches of a block, image by image, in training; the trunk is changed in place.

    The rate rises linearly over the blocks, from 0 to `rate`, as in timm.
    """
    from timm.layers import DropPath

    owners = [m for m in trunk.modules() if any(hasattr(m, place) for place in PLACES)]
    # On the CPU even under torch.device("meta"), where tensors have no values.
    rates = torch.linspace(0, rate, len(owners), device="cpu").tolist()
    for owner, of_block in zip(owners, rates):
        for place in PLACES:
            if of_block > 0 and hasattr(owner, place):
                setattr(owner, place, DropPath(of_block))
