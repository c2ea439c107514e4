"""What ViTDet adds to a detection config: its checks, its arguments, the facts of a ViT's weights.

In: a config. Out: an InputError that names the key, plain arguments, or a completed config.
"""

from __future__ import annotations

import math
from typing import Any

from fvcore.common.config import CfgNode

from pretrain.common.errors import InputError

BACKBONE = "build_vit_sfp_backbone"


def is_vit(cfg: CfgNode) -> bool:
    """Whether the detector's backbone is a ViT."""
    return cfg.MODEL.BACKBONE.NAME == BACKBONE


def check_vitdet(cfg: CfgNode) -> None:
    """Raises InputError, naming the key, for an impossible jitter, decay or image size."""
    node, decay = cfg.TRANSFER.LSJ, cfg.TRANSFER.LR_LAYER_DECAY
    if node.SCALES and not (len(node.SCALES) == 2 and 0 < node.SCALES[0] <= node.SCALES[1]):
        raise InputError(f"TRANSFER.LSJ.SCALES {tuple(node.SCALES)} must be two rising factors")
    if node.CROP_SIZE < 1:
        raise InputError(f"TRANSFER.LSJ.CROP_SIZE must be 1 or above, got {node.CROP_SIZE}")
    if not 0 < decay <= 1:
        raise InputError(f"TRANSFER.LR_LAYER_DECAY {decay} must be above 0 and at most 1")
    if decay < 1 and (not is_vit(cfg) or cfg.TRANSFER.OPTIMIZER != "AdamW"):
        raise InputError(f"TRANSFER.LR_LAYER_DECAY {decay} needs {BACKBONE} and AdamW; set 1")
    if is_vit(cfg):
        _check_square(cfg)


def _check_square(cfg: CfgNode) -> None:
    side = cfg.TRANSFER.VIT.IMAGE_SIZE
    sizes = {"INPUT.MAX_SIZE_TEST": cfg.INPUT.MAX_SIZE_TEST}
    if cfg.TRANSFER.LSJ.SCALES:
        sizes["TRANSFER.LSJ.CROP_SIZE"] = cfg.TRANSFER.LSJ.CROP_SIZE
    else:
        sizes["INPUT.MAX_SIZE_TRAIN"] = cfg.INPUT.MAX_SIZE_TRAIN
    for key, size in sizes.items():
        if size > side:
            raise InputError(
                f"{key} {size} is more than TRANSFER.VIT.IMAGE_SIZE {side}, the square that images "
                "are padded to"
            )


def vit_arguments(cfg: CfgNode) -> dict[str, Any]:
    """The fields vit_* of `DetectorSpec`."""
    return {f"vit_{key.lower()}": value for key, value in cfg.TRANSFER.VIT.items()}


def vit_facts(cfg: CfgNode, positions: int, heads: int) -> dict[str, int]:
    """Keys that a ViT's weights decide, with their values.

    Args:
        positions: of the weights' `pos_embed`, the class token's included.
    """
    side = math.isqrt(max(positions - 1, 0)) * cfg.TRANSFER.VIT.PATCH_SIZE
    return {"TRANSFER.VIT.PRETRAIN_IMAGE_SIZE": side, "TRANSFER.VIT.HEADS": heads}
