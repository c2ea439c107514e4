"""Backbones by name: torchvision's ResNets by our names, everything else by timm's.

Input (N, 3, H, W), output pooled features (N, D); D is the trunk's `out_dim`; no classifier.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pretrain.backbones.resnet import BACKBONES, build_resnet
from pretrain.common.errors import InputError
from pretrain.common.lookup import near_matches


def build_backbone(
    name: str,
    *,
    zero_init_residual: bool = False,
    image_size: int = 224,
    patch_size: int = 0,
    checkpointing: bool = False,
) -> nn.Module:
    """Builds an untrained trunk.

    Args:
        name: of `resnet.BACKBONES`, or any model of timm's.
        zero_init_residual: ResNets: BN weight 0 in each block's last norm (Goyal et al. 2017).
        image_size: ViTs: the side in pixels that their position embedding is made for; other sizes
            are fed all the same, through a resampled one.
        patch_size: ViTs: side of a patch in pixels; 0 is the model's own.
        checkpointing: ResNets of ours: see `resnet.Trunk`.

    Raises:
        InputError: unknown name, or a setting that the model does not have.
    """
    if name in BACKBONES:
        return build_resnet(name, zero_init_residual, checkpointing)
    check_backbone_name(name)
    if checkpointing:
        raise InputError(
            f"BACKBONE.CHECKPOINTING True: {name} cannot do that; set it to False, or take one of "
            f"{', '.join(BACKBONES)}"
        )
    return _from_timm(name, image_size, patch_size)


def check_backbone_name(name: str) -> None:
    """Raises InputError for a name that neither we nor timm know."""
    if name in BACKBONES:
        return
    import timm  # seconds to import, and needed for its models only

    if not timm.is_model(name):
        hint = near_matches(name, [*BACKBONES, *timm.list_models()])
        raise InputError(
            f"unknown backbone {name!r} in BACKBONE.NAME; known: {', '.join(sorted(BACKBONES))} "
            f"and timm's models{hint}"
        )


def _from_timm(name: str, image_size: int, patch_size: int) -> nn.Module:
    import timm
    from timm.models.vision_transformer import VisionTransformer

    options: dict[str, Any] = {}
    with torch.device("meta"):
        vit = isinstance(timm.create_model(name, num_classes=0), VisionTransformer)
    if vit:
        options = {"img_size": image_size, "dynamic_img_size": True}
        options |= {"patch_size": patch_size} if patch_size else {}
    elif patch_size:
        raise InputError(f"BACKBONE.PATCH_SIZE {patch_size} is for ViTs, {name} has no patches")
    trunk = timm.create_model(name, num_classes=0, **options)
    # Not num_features: MobileNetV3 and others end in a wider layer that stays without classes.
    trunk.out_dim = trunk.head_hidden_size
    return trunk


def feature_width(trunk: nn.Module) -> int:
    """The number D of pooled features that a trunk of `build_backbone` gives."""
    width = trunk.out_dim
    assert isinstance(width, int)
    return width
