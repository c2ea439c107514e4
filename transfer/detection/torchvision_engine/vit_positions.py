"""A ViT's attention windows, and its absolute and relative position embeddings.

N batch, H x W tokens, D width, h heads, s side of a window. Tokens are channels-last.
Specification: Li et al. 2022 (ViTDet, arXiv 2203.16527) and, for the decomposed relative
positions, Li et al. 2021 (MViTv2, arXiv 2112.01526), as in detectron2 `modeling/backbone/utils.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def to_windows(tokens: Tensor, side: int) -> Tensor:
    """Cuts (N, H, W, D) into (N * windows, s, s, D), with zeros below and right if needed."""
    height, width = tokens.shape[1:3]
    padded = F.pad(tokens, (0, 0, 0, -width % side, 0, -height % side))
    rows, columns = padded.shape[1] // side, padded.shape[2] // side
    grid = padded.unflatten(2, (columns, side)).unflatten(1, (rows, side))
    return grid.transpose(2, 3).flatten(0, 2)


def from_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """Inverts `to_windows`: (N * windows, s, s, D) becomes (N, height, width, D)."""
    side = windows.shape[1]
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    grid = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)[:, :height, :width].contiguous()


def absolute_positions(table: Tensor, height: int, width: int) -> Tensor:
    """Returns positions (1, height, width, D) of learned ones (1, 1 + side * side, D).

    The first, the class token's, is dropped; the others are resampled bicubically if the grid
    differs.
    """
    grid = table[:, 1:]
    side = math.isqrt(grid.shape[1])
    grid = grid.unflatten(1, (side, side))
    if (side, side) == (height, width):
        return grid
    # Pretraining is on smaller images (224 px, say) than detection: the grid must grow.
    channels_first = grid.permute(0, 3, 1, 2)
    resampled = F.interpolate(
        channels_first, size=(height, width), mode="bicubic", align_corners=False
    )
    return resampled.permute(0, 2, 3, 1)


def relative_table(table: Tensor, side: int) -> Tensor:
    """Returns positions by query and key (side, side, d) of those by distance (L, d), on one axis.

    Row i of the table belongs to the distance i - (L - 1) / 2 of query minus key; a table of a
    different grid's size is resampled linearly.
    """
    distances = 2 * side - 1
    if len(table) != distances:
        table = F.interpolate(table.T[None], size=distances, mode="linear")[0].T
    places = torch.arange(side, device=table.device)
    return table[places[:, None] - places[None, :] + side - 1]


def add_relative_positions(
    scores: Tensor, query: Tensor, rows: Tensor, columns: Tensor, height: int, width: int
) -> Tensor:
    """Returns the attention scores plus what each query makes of the distance to each key.

    Args:
        scores: (N * h, H * W, H * W).
        query: (N * h, H * W, d), not scaled.
        rows, columns: tables (L, d) of vertical and horizontal distances.
    """
    # A sum over the two axes: H + W products for each query instead of H * W.
    grid = query.unflatten(1, (height, width))
    vertical = torch.einsum("nyxd,ykd->nyxk", grid, relative_table(rows, height))
    horizontal = torch.einsum("nyxd,xkd->nyxk", grid, relative_table(columns, width))
    scores = scores.unflatten(2, (height, width)).unflatten(1, (height, width))
    scores = scores + vertical[..., :, None] + horizontal[..., None, :]
    return scores.flatten(3, 4).flatten(1, 2)
