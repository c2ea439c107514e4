"""ViTDet's plain Vision Transformer, which gives one map of stride `patch_size`.

N batch, H x W tokens, D width, h heads. Pre-norm blocks; most attend within windows, a few over the
complete image. It has no class token and no last norm, since a detector does not use them.
Specification: Li et al. 2022 (arXiv 2203.16527) as in detectron2 `modeling/backbone/vit.py`, whose
state dict this is; timm's names but for the relative positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.vit_architectures import vit_name
from transfer.detection.torchvision_engine.vit_positions import (
    absolute_positions,
    add_relative_positions,
    from_windows,
    to_windows,
)

# Both values are those of timm's ViTs, with which the weights were trained.
NORM_EPS = 1e-6
INIT_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ViTSpec:
    """Has the keys of the node TRANSFER.VIT."""

    width: int  # channels of a token
    depth: int  # number of blocks
    heads: int
    patch_size: int  # side in pixels
    image_size: int  # pixels; side of the square for which relative positions are made
    pretrain_image_size: int  # pixels; `pos_embed` is made for it, with a class token
    # Side of the windows, in tokens. The blocks that are not in `global_blocks` have such windows,
    # since attention over a complete image in each block would cost the square of its area.
    window_size: int
    global_blocks: tuple[int, ...]
    relative_positions: bool
    drop_path: float  # rate of the last block; the rates increase linearly from 0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ViTSpec:
        """Reads the config; raises InputError for values that make no ViT."""
        node = cfg.TRANSFER.VIT
        return cls(
            width=node.WIDTH,
            depth=node.DEPTH,
            heads=node.HEADS,
            patch_size=node.PATCH_SIZE,
            image_size=node.IMAGE_SIZE,
            pretrain_image_size=node.PRETRAIN_IMAGE_SIZE,
            window_size=node.WINDOW_SIZE,
            global_blocks=tuple(node.GLOBAL_BLOCKS),
            relative_positions=node.RELATIVE_POSITIONS,
            drop_path=node.DROP_PATH,
        )

    def __post_init__(self) -> None:
        """Raises InputError for values that make no ViT."""
        if not 0 <= self.drop_path < 1:
            raise InputError(f"TRANSFER.VIT.DROP_PATH {self.drop_path} must be in [0, 1)")
        outside = [block for block in self.global_blocks if not 0 <= block < self.depth]
        if outside:
            raise InputError(
                f"TRANSFER.VIT.GLOBAL_BLOCKS {outside[0]} is not one of the {self.depth} blocks"
            )
        if self.width % self.heads:
            raise InputError(f"TRANSFER.VIT.HEADS {self.heads} must divide the width {self.width}")

    @property
    def trunk_name(self) -> str:
        """Returns timm's name, e.g. "vit_base_patch16_224"."""
        return vit_name(self.width, self.patch_size, self.pretrain_image_size)


class PatchEmbed(nn.Module):
    """Is one strided convolution, `proj`, from (N, 3, H * p, W * p) to (N, H, W, D)."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return self.proj(images).permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Is multi-head attention over a grid of tokens, with decomposed relative positions."""

    def __init__(self, width: int, heads: int, *, grid: int | None) -> None:
        """Args: grid: side in tokens that relative positions are made for; None: there are none."""
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative = grid is not None
        if grid is not None:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * grid - 1, width // heads))

    def forward(self, tokens: Tensor) -> Tensor:
        """Transforms tokens (N, H, W, D) and keeps their shape."""
        count, height, width, _ = tokens.shape
        parts = self.qkv(tokens).reshape(count, height * width, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4).flatten(1, 2)  # each (N * h, H * W, d)
        scores = (query * self.scale) @ key.transpose(1, 2)
        if self.relative:
            scores = add_relative_positions(
                scores, query, self.rel_pos_h, self.rel_pos_w, height, width
            )
        out = scores.softmax(dim=-1) @ value
        out = out.view(count, self.heads, height, width, -1).permute(0, 2, 3, 1, 4).flatten(3)
        return self.proj(out)


class Mlp(nn.Module):
    """Has two linear layers with an exact GELU in between, where it is four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms (..., D) and keeps its shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Applies attention and then an MLP, each after a norm and next to a shortcut."""

    def __init__(
        self, width: int, heads: int, *, window: int, grid: int | None, drop_path: float
    ) -> None:
        """Args: window: side of the attention's windows in tokens, 0 for the complete image."""
        from timm.layers import DropPath

        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = Attention(width, heads, grid=grid)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = Mlp(width)
        self.window = window

    def forward(self, tokens: Tensor) -> Tensor:
        """Transforms tokens (N, H, W, D) and keeps their shape."""
        x = self.norm1(tokens)
        if self.window:
            x = from_windows(self.attn(to_windows(x, self.window)), *x.shape[1:3])
        else:
            x = self.attn(x)
        tokens = tokens + self.drop_path(x)
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class ViT(nn.Module):
    """Has the children `patch_embed` and `blocks`, and the parameter `pos_embed` (1, 1 +
    pretraining grid, D).
    """

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__()
        self.out_channels, self.stride = spec.width, spec.patch_size
        self.patch_embed = PatchEmbed(spec.patch_size, spec.width)
        positions = (spec.pretrain_image_size // spec.patch_size) ** 2 + 1
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, spec.width))
        self.blocks = nn.ModuleList()
        # On the CPU also under "meta", whose numbers have no values.
        rates = torch.linspace(0, spec.drop_path, spec.depth, device="cpu").tolist()
        for index, rate in enumerate(rates):
            window = 0 if index in spec.global_blocks else spec.window_size
            side = window or spec.image_size // spec.patch_size
            grid = side if spec.relative_positions else None
            self.blocks.append(
                Block(spec.width, spec.heads, window=window, grid=grid, drop_path=rate)
            )
        nn.init.trunc_normal_(self.pos_embed, std=INIT_STD)
        self.apply(_init)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the last map (N, D, H, W) of images (N, 3, H * patch_size, W * patch_size)."""
        tokens = self.patch_embed(images)
        tokens = tokens + absolute_positions(self.pos_embed, *tokens.shape[1:3])
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.permute(0, 3, 1, 2)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        nn.init.zeros_(module.bias)
