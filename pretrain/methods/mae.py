"""Masked autoencoder (He et al., arXiv 2111.06377): a ViT sees a quarter of the patches, and a
light decoder predicts the pixels of the rest.

Facts about the authors' code: facebookresearch/mae models_mae.py, CC-BY-NC; nothing is taken from
it. Legend: N images in this process's batch, L patches of an image, K patches kept, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pretrain.backbones.vit import (
    encode_tokens,
    patch_side,
    random_orders,
    sine_cosine_positions,
    take_tokens,
)
from pretrain.losses.reconstruction import patchify, removed_patch_error
from pretrain.methods.base import Method, outcome
from pretrain.methods.encode import channels_last

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class Decoder(nn.Module):
    """Predicts the pixels of all patches from the kept tokens. The position embedding is fixed."""

    def __init__(
        self, in_dim: int, *, dim: int, depth: int, heads: int, side: int, patch: int
    ) -> None:
        """
        Args:
            in_dim: width of the encoder.
            side: patches along one side of the image.
            patch: side of a patch in pixels.
        """
        super().__init__()
        from timm.models.vision_transformer import Block

        # timm's type hint asks for a class, but any function that makes a module works
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.embed = nn.Linear(in_dim, dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        position = sine_cosine_positions(dim, side, side)
        self.position = nn.Parameter(position, requires_grad=False)
        blocks = [Block(dim, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm(dim)
        self.predict = nn.Linear(dim, patch * patch * 3)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(init_as_mae)

    def forward(self, tokens: Tensor, restore: Tensor) -> Tensor:
        """Predicts all patches. `tokens` are (N, 1 + K, in_dim), class token first. `restore` (N,
        L) is the place of each patch in the list of the kept patches followed by the removed ones.
        Returns (N, L, P * P * 3).
        """
        tokens = self.embed(tokens)
        hidden = restore.shape[1] + 1 - tokens.shape[1]
        masked = self.mask_token.to(tokens.dtype).expand(len(tokens), hidden, -1)
        patches = take_tokens(torch.cat([tokens[:, 1:], masked], dim=1), restore)
        everything = torch.cat([tokens[:, :1], patches], dim=1) + self.position
        return self.predict(self.norm(self.blocks(everything)))[:, 1:]


class MAE(Method):
    """Trains a ViT on the visible patches together with the decoder.

    Args:
        mask_ratio: share of the patches to remove; they are drawn for each image.
        normalize_pixels: normalise the targets within each patch.
        image_size: side of the images in pixels.
    """

    trunk: VisionTransformer

    def __init__(
        self,
        trunk: VisionTransformer,
        *,
        image_size: int,
        mask_ratio: float = 0.75,
        normalize_pixels: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.patch = patch_side(trunk)
        side = image_size // self.patch
        self.mask_ratio = mask_ratio
        self.normalize_pixels = normalize_pixels
        self.decoder = Decoder(
            trunk.embed_dim,
            dim=decoder_dim,
            depth=decoder_depth,
            heads=decoder_heads,
            side=side,
            patch=self.patch,
        )
        trunk.pos_embed = nn.Parameter(
            sine_cosine_positions(trunk.embed_dim, side, side), requires_grad=False
        )
        trunk.apply(init_as_mae)
        nn.init.xavier_uniform_(trunk.patch_embed.proj.weight.view(trunk.embed_dim, -1))
        assert trunk.cls_token is not None  # as `is_vit` asks
        nn.init.normal_(trunk.cls_token, std=0.02)

    def forward(
        self,
        views: Sequence[Tensor],
        branches: Sequence[int],
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """See `Method.forward`; one view. `features` are the class token over kept patches."""
        images = views[0]
        patches = patchify(images, self.patch)
        order = random_orders(len(images), patches.shape[1], generator, images.device)
        kept = int(patches.shape[1] * (1 - self.mask_ratio))
        tokens = encode_tokens(self.trunk, channels_last(images), order[:, :kept])
        restore = order.argsort(dim=1)
        predicted = self.decoder(tokens, restore)
        error = removed_patch_error(predicted, patches, restore >= kept, self.normalize_pixels)
        return outcome({"pixels": error}, tokens[:, 0])


def init_as_mae(module: nn.Module) -> None:
    """Sets linear layers to Xavier-uniform weights and bias 0, and layer norms to 1 and 0."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
