"""timm's ViT whose positions are fitted to other image sizes by a project's own rule.

N batch, L patches, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from pretrain.common.lookup import find


def _offset(table: Tensor, rows: int, columns: int) -> Tensor:
    """DINO's, iBOT's and DINOv2's rule: the factor is that of a grid larger by 0.1."""
    factor = ((rows + 0.1) / table.shape[2], (columns + 0.1) / table.shape[3])
    return F.interpolate(table, scale_factor=factor, mode="bicubic")


def _bicubic(table: Tensor, rows: int, columns: int) -> Tensor:
    """The rule of transformers' ViTs."""
    return F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)


# (1, D, side, side) -> (1, D, rows, columns)
RESAMPLE: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "offset": _offset,
    "bicubic": _bicubic,
}


class ResampledVit(VisionTransformer):
    """timm's ViT with `dynamic_img_size` and one more argument.

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
        """(N, rows, columns, D) -> tokens with positions (N, prefix + L, D)."""
        count, rows, columns, _ = patches.shape
        side = self.patch_embed.grid_size
        if not self.rule or (rows, columns) == tuple(side):
            return super()._pos_embed(patches)
        prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        maps = self.pos_embed[:, prefix:].float().unflatten(1, side).permute(0, 3, 1, 2)
        fitted = RESAMPLE[self.rule](maps, rows, columns).flatten(2).transpose(1, 2)
        tokens = patches.flatten(1, 2) + fitted.to(patches.dtype)
        first = [token for token in (self.cls_token, self.reg_token) if token is not None]
        if not first:
            return tokens
        head = torch.cat(first, dim=1)
        head = head + self.pos_embed[:, :prefix] if prefix else head
        return torch.cat([head.expand(count, -1, -1).to(tokens.dtype), tokens], dim=1)
