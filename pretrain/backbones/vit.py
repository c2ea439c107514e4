"""Vision Transformers from timm, and encoding only a part of an image's patches with them.

Legend: N batch, L patches of an image, K patches kept, D width. Names are timm's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from pretrain.common.device_copy import send
from pretrain.common.errors import InputError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


def is_vit(trunk: nn.Module) -> TypeGuard[VisionTransformer]:
    """Returns whether the trunk is a timm ViT that `encode_tokens` supports.

    It must have plain patches, and one class token with its own position as the pooled output.
    """
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    return (
        isinstance(trunk, VisionTransformer)
        and isinstance(trunk.patch_embed, PatchEmbed)
        and trunk.num_prefix_tokens == 1
        and trunk.cls_token is not None
        and not trunk.no_embed_class
        and trunk.global_pool == "token"
    )


def patch_side(vit: VisionTransformer) -> int:
    """Returns the side of a patch in pixels."""
    return int(vit.patch_embed.patch_size[0])


def check_patches(vit: VisionTransformer, sizes: dict[str, int]) -> None:
    """Raises InputError if patches do not tile one of the sizes in pixels, and names its key."""
    side = patch_side(vit)
    for key, size in sizes.items():
        if size % side:
            raise InputError(f"{key} {size} must be a multiple of the backbone's {side} px patches")


def position_embedding(vit: VisionTransformer, rows: int, columns: int) -> Tensor:
    """Returns the embedding (1, 1 + rows * columns, D), resampled bicubically for another grid."""
    from timm.layers import resample_abs_pos_embed

    return resample_abs_pos_embed(vit.pos_embed, [rows, columns], num_prefix_tokens=1)


def encode_tokens(vit: VisionTransformer, images: Tensor, keep: Tensor | None = None) -> Tensor:
    """Returns the class token and patches after the last norm.

    Args:
        images: (N, 3, H, W).
        keep: (N, K) int64, the patches that the transformer sees; None: all L.

    Returns:
        (N, 1 + K, D), the class token first.
    """
    patches = vit.patch_embed(images)  # (N, rows, columns, D): built with dynamic_img_size
    position = position_embedding(vit, patches.shape[1], patches.shape[2])
    tokens = patches.flatten(1, 2) + position[:, 1:]
    if keep is not None:
        tokens = take_tokens(tokens, keep)
    assert vit.cls_token is not None  # as `is_vit` asks
    first = (vit.cls_token + position[:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([first.to(tokens.dtype), tokens], dim=1)
    return vit.norm(vit.blocks(vit.norm_pre(tokens)))


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Rows `index` (N, K) of tokens (N, L, D), image by image: (N, K, D)."""
    return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def random_orders(
    images: int, patches: int, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Returns a random order of the patches for each image, (N, L) int64 on `device`.

    It is drawn on the generator's device (the CPU if there is none) from uniform noise, image by
    image.
    """
    drawn_on = generator.device if generator is not None else torch.device("cpu")
    noise = torch.rand(images, patches, generator=generator, device=drawn_on)
    return send(noise.argsort(dim=1), device)


def sine_cosine_positions(dim: int, rows: int, columns: int) -> Tensor:
    """Returns a fixed 2-D position embedding (1, 1 + rows * columns, dim), zeros for the class
    token.

    It is that of MAE's util/pos_embed.py: half of the channels encode x, half encode y, each half
    as sines then cosines with frequencies 10000^(-2i / (dim / 2)). Raises InputError if 4 does not
    divide dim.
    """
    if dim % 4:
        raise InputError(f"sine-cosine positions need a width that is a multiple of 4, got {dim}")
    frequency = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    parts = []
    for place in (x, y):
        angle = place.reshape(-1, 1).double() * frequency
        parts += [angle.sin(), angle.cos()]
    table = torch.cat([torch.zeros(1, dim, dtype=torch.float64), torch.cat(parts, dim=1)])
    return table.float()[None]
