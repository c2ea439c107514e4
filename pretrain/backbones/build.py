"""Backbones by name: torchvision's ResNets by our names, all others by timm's names.

The input is (N, 3, H, W), the output pooled features (N, D), where D is the trunk's `out_dim`.
There is no classifier.
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
        name: a name of `resnet.BACKBONES`, or of any timm model.
        zero_init_residual: for ResNets: BN weight 0 in each block's last norm (Goyal et al. 2017).
        image_size: for ViTs: the image side in pixels for which the position embedding is made. For
            different sizes the embedding is resampled.
        patch_size: for ViTs: side of a patch in pixels; 0 is the model's own.
        checkpointing: for our ResNets: see `resnet.Trunk`.

    Raises:
        InputError: the name is unknown, or the model does not have a setting.
    """
    if name in BACKBONES:
        return build_resnet(name, zero_init_residual, checkpointing)
    check_backbone_name(name)
    if checkpointing:
        raise InputError(
            f"BACKBONE.CHECKPOINTING True: {name} does not support it; set it to False, or use one "
            f"of {', '.join(BACKBONES)}"
        )
    return _from_timm(name, image_size, patch_size)


def check_backbone_name(name: str) -> None:
    """Raises InputError for a name that neither we nor timm know."""
    if name in BACKBONES:
        return
    import timm  # a slow import, needed only for timm's models

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
        raise InputError(
            f"BACKBONE.PATCH_SIZE {patch_size} is for ViTs, but {name} has no patches; set it to 0"
        )
    trunk = timm.create_model(name, num_classes=0, **options)
    # We cannot use num_features: MobileNetV3 and others keep a wider last layer without classes.
    trunk.out_dim = trunk.head_hidden_size
    return trunk


def feature_width(trunk: nn.Module) -> int:
    """Returns the number D of pooled features of a trunk that `build_backbone` made."""
    width = trunk.out_dim
    assert isinstance(width, int)
    return width
