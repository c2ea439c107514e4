"""timm's ViT with the positions of other projects: resampled by different rules, or rotary.

N batch, L patches, D width, d width of an attention head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from pretrain.common.lookup import find


def _offset(table: Tensor, rows: int, columns: int) -> Tensor:
    """Resamples by DINO's, iBOT's and DINOv2's rule, with the factor of a grid larger by 0.1."""
    factor = ((rows + 0.1) / table.shape[2], (columns + 0.1) / table.shape[3])
    return F.interpolate(table, scale_factor=factor, mode="bicubic")


def _bicubic(table: Tensor, rows: int, columns: int) -> Tensor:
    """Resamples positions by the rule of transformers' ViTs."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)


# Each takes a table (1, D, side, side), rows and columns, and returns (1, D, rows, columns).
RESAMPLE: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "offset": _offset,
    "bicubic": _bicubic,
}


class ResampledVit(VisionTransformer):
    """Is timm's ViT with `dynamic_img_size` and one more argument.

    Without a rule, or on the grid that its positions are for, it is timm's to the bit: bicubic with
    antialiasing, which is also what DINOv2 with registers does.
    """

    def __init__(self, rule: str = "", **options: Any) -> None:
        """Args: rule: a name of RESAMPLE, "" for timm's. Raises InputError for an unknown name."""
        super().__init__(**options)
        self.rule = rule
        if rule:
            find(rule, RESAMPLE, "resampling of positions")

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """Maps (N, rows, columns, D) to tokens with positions (N, prefix + L, D)."""
        count, rows, columns, _ = patches.shape
        side = self.patch_embed.grid_size
        if not self.rule or (rows, columns) == tuple(side):
            return super()._pos_embed(patches)
        assert self.pos_embed is not None, "a rule needs positions that it can resample"
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        maps = self.pos_embed[:, prefix:].float().unflatten(1, side).permute(0, 3, 1, 2)
        fitted = RESAMPLE[self.rule](maps, rows, columns).flatten(2).transpose(1, 2)
        tokens = patches.flatten(1, 2) + fitted.to(patches.dtype)
        first: list[Tensor] = [
            token for token in (self.cls_token, self.reg_token) if token is not None
        ]
        if not first:
            return tokens
        head = torch.cat(first, dim=1)
        head = head + self.pos_embed[:, :prefix] if prefix else head
        return torch.cat([head.expand(count, -1, -1).to(tokens.dtype), tokens], dim=1)


class RotaryAttention(nn.Module):
    """Is self-attention that rotates the queries and keys of patches; its names are those of timm's
    attention.
    """

    def __init__(self, dim: int, num_heads: int, **options: Any) -> None:
        """Args: options: those of timm's attention; those that DINOv3 does not use have no
        effect.
        """
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        # the rotation for this batch, which the network sets
        self.turns: tuple[Tensor, Tensor] | None = None

    def forward(self, tokens: Tensor, **masks: Any) -> Tensor:
        """Maps (N, prefix + L, D) to the same shape."""
        count, length, width = tokens.shape
        parts = self.qkv(tokens).view(count, length, 3, self.num_heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        assert self.turns is not None, "the network says how to rotate"
        query, key = (_rotate(part, *self.turns) for part in (query, key))
        out = F.scaled_dot_product_attention(query, key, value.to(query.dtype))
        return self.proj(out.transpose(1, 2).reshape(count, length, width))


class RotaryVit(VisionTransformer):
    """Is timm's ViT with DINOv3's rotary positions, on any grid; `rope.periods` is part of its
    state.

    Specification: dinov3/layers/{rope_position_encoding,attention}.py. Angles and rotations are
    computed in float32, as by DINOv3's published models.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(pos_embed="none", attn_layer=RotaryAttention, **options)
        self.rope = nn.Module()
        size = self.embed_dim // self._attentions()[0].num_heads // 4
        self.rope.register_buffer("periods", 100.0 ** (torch.arange(size) / size))

    def _pos_embed(self, patches: Tensor) -> Tensor:
        """Maps (N, rows, columns, D) to tokens (N, prefix + L, D); sets the blocks' rotation."""
        turns = rotations(self.get_buffer("rope.periods"), *patches.shape[1:3])
        for attention in self._attentions():
            attention.turns = turns
        return super()._pos_embed(patches)

    def _attentions(self) -> list[RotaryAttention]:
        return [module for module in self.modules() if isinstance(module, RotaryAttention)]


def rotations(periods: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Sines and cosines (L, d / 2) for heads d wide: d / 4 angles of the row, then of the column.

    Args:
        periods: (d / 4,), on coordinates from -1 to 1.
    """
    places = [
        (torch.arange(side, device=periods.device) + 0.5) * 2 / side - 1 for side in (rows, columns)
    ]
    grid = torch.stack(torch.meshgrid(*places, indexing="ij"), dim=-1).flatten(0, 1)
    angles = (2 * math.pi * grid[:, :, None] / periods.float()).flatten(1)
    return angles.sin(), angles.cos()


def _rotate(heads: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """Returns (N, heads, prefix + L, d): the last L turned in the planes of channels c and c + d /
    2.
    """
    prefix = heads.shape[2] - len(sin)
    first, second = heads[:, :, prefix:].float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([heads[:, :, :prefix], turned.to(heads.dtype)], dim=2)
