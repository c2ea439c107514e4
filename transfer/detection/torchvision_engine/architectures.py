"""The kinds of detector by MODEL.BACKBONE.NAME, for all who must tell them apart in a config.

This file loads no torch: the roles of config keys, which a report reads, depend on it. The backbone
of each kind is in `detector.BACKBONES`.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.common.lookup import find

ARCHITECTURES = {
    "build_resnet_backbone": "C4",  # proposals on res4, res5 is the second stage
    "build_resnet_fpn_backbone": "FPN",
    "build_retinanet_resnet_fpn_backbone": "FPN",  # p6 and p7 are convolutions of res5
    "build_tiny_resnet_backbone": "TINY",  # one map of stride 8, for the digits
    "build_vit_sfp_backbone": "VIT",  # ViTDet: a simple feature pyramid on a plain ViT
}
PYRAMIDS = ("FPN", "VIT")


def architecture(cfg: CfgNode) -> str:
    """Returns "C4", "FPN", "TINY" or "VIT"; raises InputError for an unknown backbone."""
    return find(cfg.MODEL.BACKBONE.NAME, ARCHITECTURES, "MODEL.BACKBONE.NAME")


def is_vit(cfg: CfgNode) -> bool:
    """Whether the backbone is a ViT; False also for an unknown one."""
    return ARCHITECTURES.get(cfg.MODEL.BACKBONE.NAME) == "VIT"
