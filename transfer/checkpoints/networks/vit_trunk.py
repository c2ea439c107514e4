"""Builds timm's network of a ViT from its sizes, its variant and the facts about it.

N batch, L patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from transfer.checkpoints.networks.vit_architectures import Vit

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

NORM_EPS = 1e-6


def build_vit(vit: Vit, architecture: Mapping[str, Any]) -> VisionTransformer:
    """Returns timm's ViT of these sizes, without classifier; different image sizes resample its
    positions.

    Args:
        architecture: see `Weights.architecture`.

    Raises:
        InputError: an unknown rule of resampling.
    """
    from timm.layers import SwiGLUPacked

    from transfer.checkpoints.networks.vit_resampled import ResampledVit, RotaryVit

    hidden = vit.hidden or 4 * vit.width
    options: dict[str, Any] = {"init_values": 1.0} if vit.layer_scale else {}
    if vit.gated:
        options |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    if vit.pool_norm or not vit.class_token:
        options |= {"global_pool": "avg", "fc_norm": vit.pool_norm}
    network = RotaryVit if vit.rope else partial(ResampledVit, architecture.get("resample", ""))
    trunk = network(
        img_size=vit.image_size,
        patch_size=vit.patch_size,
        embed_dim=vit.width,
        depth=vit.depth,
        num_heads=architecture.get("num_heads", vit.heads),
        # timm rounds the product with the width down
        mlp_ratio=((1 + vit.gated) * hidden + 0.5) / vit.width,
        class_token=vit.class_token,
        no_embed_class=not vit.class_position,
        reg_tokens=vit.registers,
        norm_layer=partial(nn.LayerNorm, eps=architecture.get("norm_eps", NORM_EPS)),
        num_classes=0,
        dynamic_img_size=True,
        **options,
    )
    setattr(trunk, "out_dim", vit.width)  # an attribute of ours on timm's class
    return trunk
