"""Anchors of feature maps: map sizes in, boxes in image pixels out.

L feature maps, H, W of a map, A anchors per place. Boxes are XYXY; the order of a map's
H * W * A anchors is row, column, anchor (the last fastest), as the heads' outputs are flattened.
Specification: detectron2 `modeling/anchor_generator.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.common.errors import InputError


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(A, 4) boxes centred at 0, for each size, then each ratio = height / width; not rounded.

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


def pair_rows(
    sizes: Sequence[Sequence[float]], ratios: Sequence[Sequence[float]], maps: int
) -> list[list[Sequence[float]]]:
    """Sizes and ratios with one row for each of the feature maps.

    Raises InputError when rows and maps do not pair up, or maps would differ in their anchors.
    """
    rows = []
    for key, table in (("SIZES", sizes), ("ASPECT_RATIOS", ratios)):
        if len(table) not in (1, maps):
            raise InputError(
                f"MODEL.ANCHOR_GENERATOR.{key} has {len(table)} rows for {maps} feature maps "
                "(MODEL.RPN.IN_FEATURES); give one row, or one per map"
            )
        rows.append(list(table) * (maps // len(table)))
    counts = {len(row) * len(ratio_row) for row, ratio_row in zip(*rows)}
    if len(counts) != 1 or not min(counts):
        raise InputError(
            "MODEL.ANCHOR_GENERATOR: each map needs the same number of anchors, one or more"
        )
    return rows


class AnchorGenerator(nn.Module):
    """Anchors at every place of L maps; nothing of it is kept in the state dict."""

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        ratios: Sequence[Sequence[float]],
        strides: Sequence[int],
        offset: float = 0.0,
    ) -> None:
        """Args:
            sizes, ratios: a row per map, or one row for all of them.
            strides: pixels per cell of each map.
            offset: where in a cell the centre lies, 0 its top-left corner, 0.5 its middle.

        Raises InputError when rows and maps do not pair up.
        """
        super().__init__()
        self.strides, self.offset = tuple(strides), offset
        rows = pair_rows(sizes, ratios, len(strides))
        for index, (row, ratio_row) in enumerate(zip(*rows)):
            self.register_buffer(f"cell{index}", cell_anchors(row, ratio_row), persistent=False)
        self.num_anchors = len(rows[0][0]) * len(rows[1][0])

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """L maps (N, C, H, W) -> L tensors of anchors (H * W * A, 4)."""
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
        start = self.offset * stride
        steps = torch.arange(
            start, count * stride, step=stride, dtype=torch.float32, device=like.device
        )
        return steps[:count]
