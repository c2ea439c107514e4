"""The maps of several strides that UPerNet's head takes from any trunk, the finest first.

A ResNet gives the map of each stage. A ViT has one stride only: the maps after four of its blocks
are rescaled, as in BEiT and MAE (mmseg's necks/featurepyramid.py), to strides 4, 8, 16 and 32 for
patches of 16 pixels. Another ConvNet of timm's gives its maps of strides 4, 8, 16 and 32; a
ConvNeXt's maps get a LayerNorm each, as its authors do for dense tasks.

Legend: N images, C channels, D width of a ViT; h, w pixels of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError
from transfer.checkpoints.networks.convnext import parse_convnext
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.detection.torchvision_engine.feature_map_checks import STAGES
from transfer.detection.torchvision_engine.timm_convnet import layout_of
from transfer.segmentation.feature_maps import TimmNetwork, stage_width

NORM_EPS = 1e-6


class Pyramid(nn.ModuleList):
    """Describes the learned layer on each map, and what the trunk's maps are.

    Attributes:
        places: the blocks or stages whose maps `feature_maps.maps_at` returns.
        widths: channels of each map, the same before and after its layer.
        unit: a side of the input must be a multiple of this many units of the trunk.
    """

    def __init__(self, trunk: nn.Module, name: str, vit_blocks: Sequence[int]) -> None:
        """Excludes the parts of the trunk on which no map depends from training.

        Args:
            name: the trunk's.
            vit_blocks: the blocks of a ViT whose outputs are taken.
        """
        super().__init__()
        self.places: tuple[int, ...] = ()
        self.unit = 1
        if isinstance(trunk, Trunk):
            self.places = tuple(range(len(trunk.stages)))
            self.widths = [stage_width(trunk, stage) for stage in trunk.stages]
        elif parse_vit(name) is not None:
            width = cast(TimmNetwork, trunk).num_features
            self.places, self.widths = tuple(vit_blocks), [width] * len(vit_blocks)
            self.unit = 2  # the coarsest map halves the grid of patches
            self.extend(rescaling(width))
        else:
            layout = layout_of(name)
            self.places = tuple(layout.places[stage] for stage in STAGES)
            self.widths = [layout.channels[stage] for stage in STAGES]
            if parse_convnext(name) is not None:
                from timm.layers import LayerNorm2d

                self.unit = 32  # its strided convolutions have no padding and would cut edges off
                self.extend(LayerNorm2d(width, eps=NORM_EPS) for width in self.widths)
        for part in parts_above(trunk, name, self.places):
            trunk.get_submodule(part).requires_grad_(False)  # it would have no gradient

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps the trunk's maps [(N, C, h', w')] to those of the head."""
        return [layer(x) for layer, x in zip(self, maps)] if len(self) else list(maps)


def rescaling(width: int) -> list[nn.Module]:
    """Returns layers from (N, D, a, b) to (N, D, f a, f b), f = 4, 2, 1 and 1/2 (a, b even)."""
    return [
        nn.Sequential(
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        ),
        nn.ConvTranspose2d(width, width, kernel_size=2, stride=2),
        nn.Identity(),
        nn.MaxPool2d(kernel_size=2, stride=2),
    ]


def check_pyramid_of(name: str, vit_blocks: Sequence[int]) -> None:
    """Raises InputError if the trunk of this name does not have the maps of a pyramid."""
    vit = parse_vit(name)
    if vit is not None:
        blocks = list(vit_blocks)
        if blocks != sorted(set(blocks)) or not 0 <= blocks[0] <= blocks[-1] < vit.depth:
            raise InputError(
                f"TRANSFER.SEMANTIC.VIT_BLOCKS {tuple(blocks)} must be four blocks of {name}, "
                f"in increasing order, from 0 to {vit.depth - 1}"
            )
        return
    lacks = [stage for stage in STAGES if stage not in layout_of(name).channels]
    if lacks:
        raise InputError(
            f"MODEL.BACKBONE.NAME {name} has maps of the strides {layout_of(name).strides}, but "
            "TRANSFER.SEMANTIC.HEAD uper needs one of each of 4, 8, 16, 32; choose a different "
            "network"
        )


def parts_above(trunk: nn.Module, name: str, places: Sequence[int]) -> list[str]:
    """Returns the parts of a trunk that none of its maps depends on."""
    if isinstance(trunk, Trunk):
        return []
    if parse_vit(name) is None:
        return list(layout_of(name).after)
    count = len(cast(nn.ModuleList, trunk.get_submodule("blocks")))
    return ["norm", "fc_norm", *(f"blocks.{block}" for block in range(places[-1] + 1, count))]
