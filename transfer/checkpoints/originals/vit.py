"""A Vision Transformer on a file's own names, to prove a conversion against.

Written from "An Image is Worth 16x16 Words" as timm, DINO, MAE, MSN, DINOv2, I-JEPA, DeiT,
torchvision and transformers build it: class token, registers, learned or fixed positions, pre-norm
blocks, LayerScale, exact GELU or SwiGLU, rotary positions (DINOv3). It does not use the converter's
tables: each part is looked up under its names in the order of `Spelling`, and a part that is
    missing is not computed. N batch, L tokens, D width.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

EPS = 1e-6


class Spelling(NamedTuple):
    """Holds the names of the parts; if a part has several, a file has one of them.

    The block's parts follow `block`, a pattern whose `{}` is its number.
    """

    head: str = ""
    patches: str = "patch_embed.proj"
    class_token: str = "cls_token"
    tokens: tuple[str, ...] = ("reg_token", "register_tokens", "dist_token", "storage_tokens")
    positions: str = "pos_embed"
    block: str = r"blocks\.(\d+\.)?{}\."
    norms: tuple[str, str] = ("norm1", "norm2")
    # Query, key and value in one matrix, or separate; the name of its weight ends in `.weight` or
    # in this.
    qkv: tuple[tuple[str, ...], ...] = (("attn.qkv",),)
    dot: str = "."
    proj: tuple[str, ...] = ("attn.proj",)
    scales: tuple[tuple[str, str], ...] = (("ls1.gamma", "ls2.gamma"), ("gamma_1", "gamma_2"))
    # One matrix before the activation, or gate and value separate
    inner: tuple[tuple[str, ...], ...] = (
        ("mlp.fc1",),
        ("mlp.w12",),
        ("mlp.w1", "mlp.w2"),
        ("mlp.fc1_g", "mlp.fc1_x"),
    )
    outer: tuple[str, ...] = ("mlp.fc2", "mlp.w3")
    norm: str = "norm"
    pool_norm: str = "fc_norm"
    periods: tuple[str, ...] = ("rope.periods", "rope_embed.periods")


_HF = Spelling(
    patches="embeddings.patch_embeddings.projection",
    class_token="embeddings.cls_token",
    tokens=("embeddings.register_tokens", "embeddings.distillation_token"),
    positions="embeddings.position_embeddings",
    block=r"(encoder\.layer|layers)\.{}\.",
    qkv=(
        tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        tuple(f"attention.{part}_proj" for part in "qkv"),
    ),
    proj=("attention.output.dense", "attention.o_proj"),
    scales=(("layer_scale1.lambda1", "layer_scale2.lambda1"),),
    inner=(
        ("intermediate.dense",),
        ("mlp.fc1",),
        ("mlp.weights_in",),
        ("mlp.gate_proj", "mlp.up_proj"),
    ),
    outer=("output.dense", "mlp.fc2", "mlp.weights_out", "mlp.down_proj"),
    norm="layernorm",
)

SPELLINGS = {
    "canonical": Spelling(),
    "named_vit": Spelling(),
    "vitdet": Spelling(head="backbone.net."),
    "mm_vit": Spelling(
        patches="patch_embed.projection",
        block=r"layers\.{}\.",
        norms=("ln1", "ln2"),
        inner=(("ffn.layers.0.0",),),
        outer=("ffn.layers.1",),
        norm="ln1",
    ),
    "hf_vit": _HF._replace(norms=("layernorm_before", "layernorm_after")),
    "hf_dinov2": _HF,
    "hf_dinov3": _HF._replace(
        patches="embeddings.patch_embeddings",
        block=r"(model\.)?layer\.{}\.",
        inner=(("mlp.gate_proj", "mlp.up_proj"), ("mlp.up_proj",)),
        norm="norm",
    ),
    "torchvision_vit": Spelling(
        patches="conv_proj",
        class_token="class_token",
        positions="encoder.pos_embedding",
        block=r"encoder\.layers\.encoder_layer_{}\.",
        norms=("ln_1", "ln_2"),
        qkv=(("self_attention.in_proj",),),
        dot="_",
        proj=("self_attention.out_proj",),
        inner=(("mlp.0",), ("mlp.linear_1",)),
        outer=("mlp.3", "mlp.linear_2"),
        norm="encoder.ln",
    ),
}


class PlainVit(nn.Module):
    """Computes the transformer on a mapping of tensors; each is looked up by its own name."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        layout: str,
        heads: int,
        depth: int,
        eps: float = EPS,
    ) -> None:
        """Args: eps: epsilon of the LayerNorms."""
        super().__init__()
        self.tensors, self.names = tensors, SPELLINGS[layout]
        if layout == "hf_vit" and not self._has("layers?\\.0\\.layernorm_before\\.weight"):
            self.names = SPELLINGS["hf_dinov2"]
        self.heads, self.depth, self.eps = heads, depth, eps

    def _has(self, pattern: str) -> bool:
        return any(re.search(pattern, name) for name in self.tensors)

    def _get(self, name: str) -> Tensor:
        return self.tensors[self.names.head + name].float()

    def _there(self, name: str) -> bool:
        return self.names.head + name in self.tensors

    def _first(self, block: str, names: tuple[str, ...], leaf: str = ".weight") -> str:
        return next(
            (block + n for n in names if self._there(f"{block}{n}{leaf}")), block + names[0]
        )

    def _linear(self, x: Tensor, name: str, dot: str = ".") -> Tensor:
        out = x @ self._get(f"{name}{dot}weight").T
        if not self._there(f"{name}{dot}bias"):
            return out
        bias = self._get(f"{name}{dot}bias")
        masked = self._there(f"{name}{dot}bias_mask")
        return out + (bias * self._get(f"{name}{dot}bias_mask") if masked else bias)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._get(f"{name}.weight"), self._get(f"{name}.bias")
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)

    def _block(self, number: int) -> str:
        """Returns the beginning of a block's names in this file."""
        pattern = re.compile(re.escape(self.names.head) + self.names.block.format(number))
        found = next((m for m in map(pattern.match, self.tensors) if m), None)
        assert found, f"no block {number}"
        return found[0][len(self.names.head) :]

    def _turned(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Queries or keys (N, heads, L, d), those of the patches rotated by their places.

        Channels c and c + d / 2 are the two axes of a plane. The first half of the planes turns
        with the row, the second with the column, once around in each period of the coordinate.
        """
        rows, columns = grid
        name = next((n for n in self.names.periods if self._there(n)), None)
        quarter = x.shape[-1] // 4
        own = self._get(name) if name else 100.0 ** (2 * torch.arange(quarter) / (2 * quarter))
        y = (torch.arange(rows) + 0.5) / rows * 2 - 1
        z = (torch.arange(columns) + 0.5) / columns * 2 - 1
        turns = torch.cat(
            [
                (y[:, None] / own)[:, None].expand(rows, columns, -1),
                (z[:, None] / own)[None].expand(rows, columns, -1),
            ],
            dim=-1,
        ).reshape(rows * columns, -1)
        cos, sin = (2 * math.pi * turns).cos(), (2 * math.pi * turns).sin()
        patches = x[:, :, -rows * columns :]
        first, second = patches[..., : 2 * quarter], patches[..., 2 * quarter :]
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return torch.cat([x[:, :, : -rows * columns], turned], dim=2)

    def _attend(self, x: Tensor, block: str, grid: tuple[int, int] | None) -> Tensor:
        """Multi-head attention over tokens (N, L, D); grid: sides in patches, for rotation."""
        count, length, width = x.shape
        names, dot = self.names, self.names.dot
        parts = next(p for p in names.qkv if self._there(f"{block}{p[0]}{dot}weight"))
        stacked = torch.cat([self._linear(x, f"{block}{part}", dot) for part in parts], dim=-1)
        query, key, value = stacked.view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if grid is not None:
            query, key = self._turned(query, grid), self._turned(key, grid)
        scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        out = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, length, width)
        return self._linear(out, self._first(block, names.proj))

    def _mlp(self, x: Tensor, block: str) -> Tensor:
        """The MLP on tokens (N, L, D), gated if the inner layer is twice the outer one's input."""
        inner = next(p for p in self.names.inner if self._there(f"{block}{p[0]}.weight"))
        outer = self._first(block, self.names.outer)
        x = torch.cat([self._linear(x, f"{block}{part}") for part in inner], dim=-1)
        taken = self._get(f"{outer}.weight").shape[1]
        x = F.gelu(x) if x.shape[-1] == taken else F.silu(x[..., :taken]) * x[..., taken:]
        return self._linear(x, outer)

    def _scaled(self, x: Tensor, block: str, place: int) -> Tensor:
        """Returns a branch times its LayerScale, if there is one."""
        found = [pair[place] for pair in self.names.scales if self._there(block + pair[place])]
        return x * self._get(block + found[0]) if found else x

    def _tokens(self, patches: Tensor) -> Tensor:
        """Returns all tokens with their positions, from patches (N, L, D).

        The table has a row for the first of them, or for the first two, or for the patches alone.
        """
        names = self.names
        table = self._get(names.positions) if self._there(names.positions) else patches[:1] * 0
        rows = table.shape[1] - patches.shape[1]
        tokens = [n for n in (names.class_token, *names.tokens) if self._there(n)]
        prefix = [self._get(name) for name in tokens]
        for place in range(rows):
            prefix[place] = prefix[place] + table[:, place : place + 1]
        prefix = [token.expand(len(patches), -1, -1) for token in prefix]
        return torch.cat([*prefix, patches + table[:, rows:]], dim=1)

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tokens (N, L, D) after "patches", "block1", ..., "norm", and "features" (N, D).

        The input is (N, 3, H, W). The features are the class token or, without one or with a norm
        of its own, the mean of the patches.
        """
        names = self.names
        kernel = self._get(f"{names.patches}.weight")
        x = F.conv2d(x, kernel, self._get(f"{names.patches}.bias"), stride=kernel.shape[-1])
        grid = None if self._there(names.positions) else (x.shape[2], x.shape[3])
        patches = x.flatten(2).transpose(1, 2)
        maps = {"patches": (x := self._tokens(patches))}
        for number in range(self.depth):
            block = self._block(number)
            branch = self._attend(self._norm(x, f"{block}{names.norms[0]}"), block, grid)
            x = x + self._scaled(branch, block, 0)
            branch = self._mlp(self._norm(x, f"{block}{names.norms[1]}"), block)
            x = x + self._scaled(branch, block, 1)
            maps[f"block{number + 1}"] = x
        means = x[:, -patches.shape[1] :].mean(dim=1)
        if not self._there(f"{names.norm}.weight"):
            return {**maps, "norm": x, "features": self._norm(means, names.pool_norm)}
        x = self._norm(x, names.norm)
        means = x[:, -patches.shape[1] :].mean(dim=1)
        token = self._there(names.class_token)
        return {**maps, "norm": x, "features": x[:, 0] if token else means}


class TimmVit(nn.Module):
    """Is timm's model; it returns the tokens of the same stages."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.network = network

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns tokens (N, L, D) after "patches", "block1", ..., "norm", and "features" (N, D).

        The input is (N, 3, H, W).
        """
        net = self.network
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        maps = {"patches": x}
        for number, block in enumerate(net.blocks):
            x = maps[f"block{number + 1}"] = block(x)
        x = net.norm(x)
        return {**maps, "norm": x, "features": net.forward_head(x)}
