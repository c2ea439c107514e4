"""The kinds of detector by MODEL.BACKBONE.NAME, for all who must tell them apart in a config.

This file loads no torch: the roles of config keys, which a report reads, depend on it. The backbone
of each kind is in `detector.BACKBONES`.
"""

from __future__ import annotations

from fvcore.common.config import CfgNode

from pretrain.common.lookup import find

ARCHITECTURES = {
    "build_resnet_backbone": "C4",  # proposals on res4, res5 is the second stage; or C5, see below
    "build_resnet_fpn_backbone": "FPN",
    "build_retinanet_resnet_fpn_backbone": "FPN",  # p6 and p7 are convolutions of res5
    "build_tiny_resnet_backbone": "TINY",  # one map of stride 8, for the digits
    "build_vit_sfp_backbone": "VIT",  # ViTDet: a simple feature pyramid on a plain ViT
}
PYRAMIDS = ("FPN", "VIT")
BUILDER = "build_"  # the beginning of all names that are not timm's


class BackboneNames(dict[str, str]):
    """Is `ARCHITECTURES`, but also contains every name that may be one of timm's."""

    def __contains__(self, name: object) -> bool:
        own = super().__contains__(name)
        return own or isinstance(name, str) and not name.startswith(BUILDER)


def architecture(cfg: CfgNode) -> str:
    """Returns "C4", "C5", "FPN", "TINY" or "VIT"; raises InputError for an unknown backbone.

    A ResNet without a pyramid is C4 with the heads whose second stage is res5, and C5 with any
    others, which read a complete ResNet. A network of timm's has a pyramid, FPN; whether timm knows
    the name is asked when it is built.
    """
    if is_timm(cfg):
        return "FPN"
    kind = find(cfg.MODEL.BACKBONE.NAME, ARCHITECTURES, "MODEL.BACKBONE.NAME")
    return "C5" if kind == "C4" and "Res5" not in cfg.MODEL.ROI_HEADS.NAME else kind


def is_timm(cfg: CfgNode) -> bool:
    """Returns whether the backbone's name is one of timm's: neither ours nor Detectron2's."""
    return not cfg.MODEL.BACKBONE.NAME.startswith(BUILDER)


def is_vit(cfg: CfgNode) -> bool:
    """Returns whether the backbone is a ViT; False also for an unknown one."""
    return ARCHITECTURES.get(cfg.MODEL.BACKBONE.NAME) == "VIT"
