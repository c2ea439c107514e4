"""Maps of features of any trunk, for heads that predict one class per place.

A ResNet gives the maps of its last two stages, a ViT its patches after the last norm as a map,
without its class token and registers, and another ConvNet of timm's its last map (a ConvNeXt's
after the norm that otherwise follows the pooling, as DINOv3's get_intermediate_layers does).

Legend: N images, C channels; h, w pixels of the input; h', w' places of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.backbones.resnet import Trunk


class TimmNetwork(Protocol):
    """Describes what every network of timm has."""

    num_features: int

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps (N, 3, h, w) to tokens (N, T, C) or to a map (N, C, h', w')."""
        ...

    def forward_intermediates(
        self, x: Tensor, indices: list[int], *, intermediates_only: bool
    ) -> list[Tensor]:
        """Maps (N, 3, h, w) to the maps (N, C, h', w') after the blocks or stages `indices`."""
        ...


def feature_maps(trunk: nn.Module, images: Tensor) -> list[Tensor]:
    """Maps (N, 3, h, w) to maps (N, C, h', w'): a ResNet's last two, or one; the last comes last.

    The sides of the images must be multiples of `side_unit`.
    """
    if isinstance(trunk, Trunk):
        maps = trunk.forward_stages(images)
        return [maps[stage] for stage in trunk.stages[-2:]]
    features = cast(TimmNetwork, trunk).forward_features(images)
    if features.dim() == 4:
        norm = getattr(getattr(trunk, "head", None), "norm", None)
        return [features if norm is None else norm(features)]
    side = side_unit(trunk)
    # One of the two norms is an identity: a ViT that pools first has `fc_norm` in place of `norm`.
    patches = trunk.get_submodule("fc_norm")(features[:, getattr(trunk, "num_prefix_tokens") :])
    grid = (images.shape[-2] // side, images.shape[-1] // side)
    return [patches.transpose(1, 2).unflatten(2, grid)]


def maps_at(trunk: nn.Module, images: Tensor, places: Sequence[int]) -> list[Tensor]:
    """Maps (N, 3, h, w) to the maps (N, C, h', w') after a ViT's blocks or a ConvNet's stages.

    The last norm is not applied. The sides of the images must be multiples of `side_unit`.
    """
    if isinstance(trunk, Trunk):
        maps = trunk.forward_stages(images)
        return [maps[trunk.stages[place]] for place in places]
    network = cast(TimmNetwork, trunk)
    return network.forward_intermediates(images, list(places), intermediates_only=True)


def map_width(trunk: nn.Module) -> int:
    """Returns the number of channels C of the last map."""
    return trunk.out_dim if isinstance(trunk, Trunk) else cast(TimmNetwork, trunk).num_features


def stage_width(trunk: Trunk, stage: str) -> int:
    """Returns the number of channels of a stage's output."""
    convs = [m for m in getattr(trunk, stage)[-1].modules() if isinstance(m, nn.Conv2d)]
    return convs[-1].out_channels


def side_unit(trunk: nn.Module) -> int:
    """Returns what the sides of an input must be multiples of: a ViT's patch in pixels, else 1."""
    if not hasattr(trunk, "num_prefix_tokens"):
        return 1
    return int(getattr(trunk.get_submodule("patch_embed"), "patch_size")[0])


def padded(images: Tensor, unit: int) -> Tensor:
    """Pads (N, C, h, w) with zeros below and on the right, to sides of a multiple of `unit`."""
    below, right = -images.shape[-2] % unit, -images.shape[-1] % unit
    return F.pad(images, (0, right, 0, below)) if below or right else images
