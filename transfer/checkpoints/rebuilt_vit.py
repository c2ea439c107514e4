"""A plain Vision Transformer on a file's own names, to prove a conversion against.

Written from "An Image is Worth 16x16 Words" as timm, DINO, MAE and MSN build it: class token,
learned or fixed positions, pre-norm blocks, exact GELU, LayerNorm with eps 1e-6.
N batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class Spelling(NamedTuple):
    """Names of the parts; the block's begin with `block.format(number)`."""

    head: str = ""
    patches: str = "patch_embed.proj"
    block: str = "blocks.{}"
    norms: tuple[str, str] = ("norm1", "norm2")
    mlp: tuple[str, str] = ("mlp.fc1", "mlp.fc2")
    norm: str = "norm"


SPELLINGS = {
    "canonical": Spelling(),
    "vitdet": Spelling(head="backbone.net."),
    "mm_vit": Spelling(
        patches="patch_embed.projection",
        block="layers.{}",
        norms=("ln1", "ln2"),
        mlp=("ffn.layers.0.0", "ffn.layers.1"),
        norm="ln1",
    ),
}


class PlainVit(nn.Module):
    """The transformer over a mapping of tensors; each is asked for by its own name."""

    def __init__(self, tensors: Mapping[str, Tensor], layout: str, heads: int, depth: int) -> None:
        super().__init__()
        self.tensors, self.names = tensors, SPELLINGS[layout]
        self.heads, self.depth = heads, depth

    def _get(self, name: str) -> Tensor:
        return self.tensors[self.names.head + name].float()

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self._get(f"{name}.weight").T + self._get(f"{name}.bias")

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, EPS)

    def _attend(self, x: Tensor, name: str) -> Tensor:
        """Multi-head attention, (N, L, D) -> (N, L, D)."""
        count, length, width = x.shape
        parts = self._linear(x, f"{name}.qkv").view(count, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (N, heads, L, D / heads)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        out = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, length, width)
        return self._linear(out, f"{name}.proj")

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> tokens (N, L, D) after "patches", "block1", ..., "norm"."""
        names = self.names
        kernel = self._get(f"{names.patches}.weight")
        x = F.conv2d(x, kernel, self._get(f"{names.patches}.bias"), stride=kernel.shape[-1])
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self._get("cls_token").expand(len(x), -1, -1), x], dim=1)
        maps = {"patches": (x := x + self._get("pos_embed"))}
        for number in range(self.depth):
            block = names.block.format(number)
            x = x + self._attend(self._norm(x, f"{block}.{names.norms[0]}"), f"{block}.attn")
            inner = F.gelu(
                self._linear(self._norm(x, f"{block}.{names.norms[1]}"), f"{block}.{names.mlp[0]}")
            )
            x = x + self._linear(inner, f"{block}.{names.mlp[1]}")
            maps[f"block{number + 1}"] = x
        return {**maps, "norm": self._norm(x, names.norm)}


class TimmVit(nn.Module):
    """timm's model, with the tokens after the same places."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> tokens (N, L, D) after "patches", "block1", ..., "norm"."""
        net = self.network
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        maps = {"patches": x}
        for number, block in enumerate(net.blocks):
            x = maps[f"block{number + 1}"] = block(x)
        return {**maps, "norm": net.norm(x)}
