"""Anchors of feature maps: the boxes in image pixels that proposals are made from.

L feature maps, H, W of a map, A anchors per place. Boxes are XYXY; the order of a map's
H * W * A anchors is row, column, anchor (the last fastest), as the heads' outputs are flattened.
Specification: detectron2 `modeling/anchor_generator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.feature_map_checks import RPN_IN


@dataclass(frozen=True, kw_only=True)
class AnchorSpec:
    """Has the keys of the node MODEL.ANCHOR_GENERATOR."""

    sizes: tuple[tuple[float, ...], ...]  # in pixels; one row per feature map, or one row for all
    aspect_ratios: tuple[tuple[float, ...], ...]  # height / width; rows as in `sizes`
    offset: float  # place of an anchor's centre in its cell: 0 top-left corner, 0.5 middle

    @classmethod
    def from_config(cls, cfg: CfgNode) -> AnchorSpec:
        """Reads the config."""
        node = cfg.MODEL.ANCHOR_GENERATOR
        return cls(
            sizes=_rows(node.SIZES), aspect_ratios=_rows(node.ASPECT_RATIOS), offset=node.OFFSET
        )

    def rows(self, maps: int, taken: str = RPN_IN) -> list[list[tuple[float, ...]]]:
        """Sizes and aspect ratios, each with one row for each of `maps` feature maps.

        Args:
            taken: the key that names these maps.

        Raises InputError if rows and maps do not pair up, or if the maps would differ in their
        number of anchors: one head serves them all.
        """
        rows = []
        for key, given in (("SIZES", self.sizes), ("ASPECT_RATIOS", self.aspect_ratios)):
            if len(given) not in (1, maps):
                raise InputError(
                    f"MODEL.ANCHOR_GENERATOR.{key} has {len(given)} rows for {maps} feature maps "
                    f"({taken}); give one row, or one per map"
                )
            rows.append(list(given) * (maps // len(given)))
        counts = {len(row) * len(ratio_row) for row, ratio_row in zip(*rows)}
        if len(counts) != 1 or not min(counts):
            raise InputError(
                "MODEL.ANCHOR_GENERATOR: each map needs the same number of anchors, one or more"
            )
        return rows


def _rows(given: Sequence[Any]) -> tuple[tuple[float, ...], ...]:
    """Returns a row per feature map; a flat list is one row for all maps, as in Detectron2."""
    if given and not isinstance(given[0], (list, tuple)):
        return (tuple(given),)
    return tuple(map(tuple, given))


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Returns (A, 4) boxes centred at 0, for each size, then each ratio = height / width; not
    rounded.

    Args:
        sizes: square roots of the areas, in pixels.
    """
    boxes = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            boxes.append([-width / 2.0, -height / 2.0, width / 2.0, height / 2.0])
    return torch.tensor(boxes)


class AnchorGenerator(nn.Module):
    """Anchors at every place of L maps; the state dict does not have them."""

    def __init__(self, spec: AnchorSpec, strides: Sequence[int]) -> None:
        """Args: strides: pixels per cell of each map. Raises InputError as `AnchorSpec.rows`."""
        super().__init__()
        self.strides, self.offset = tuple(strides), spec.offset
        sizes, ratios = spec.rows(len(strides))
        for index, (row, ratio_row) in enumerate(zip(sizes, ratios)):
            # They are not persistent, as upstream: anchors follow from the config.
            self.register_buffer(f"cell{index}", cell_anchors(row, ratio_row), persistent=False)
        self.num_anchors = len(sizes[0]) * len(ratios[0])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Returns L tensors of anchors (H * W * A, 4), one for each map (N, C, H, W)."""
        anchors = []
        for index, (feature, stride) in enumerate(zip(features, self.strides)):
            cell = getattr(self, f"cell{index}")
            height, width = feature.shape[-2:]
            x = self._centres(width, stride, cell)
            y = self._centres(height, stride, cell)
            y, x = torch.meshgrid(y, x, indexing="ij")
            shifts = torch.stack((x, y, x, y), dim=-1).view(-1, 1, 4)
            anchors.append((shifts + cell).view(-1, 4))
        return anchors

    def _centres(self, count: int, stride: int, like: Tensor) -> Tensor:
        """Returns the centres along one axis of `count` cells, float32 (count,)."""
        first = self.offset * stride
        steps = torch.arange(
            first, count * stride, step=stride, dtype=torch.float32, device=like.device
        )
        return steps[:count]
