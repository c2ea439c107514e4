"""Detectron2's own ViT and simple feature pyramid as a backbone of its configs.

In: a config with the node `TRANSFER.VIT`. Out: on import, the backbone `build_vit_sfp_backbone` is
registered. In Detectron2 itself ViTDet can only be built from Python files ("lazy configs").
"""

from __future__ import annotations

import math
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from transfer.detection.torchvision_engine.simple_pyramid import SCALES
from transfer.detection.torchvision_engine.vit import NORM_EPS


@BACKBONE_REGISTRY.register()
def build_vit_sfp_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """ViTDet's backbone, as Detectron2's configs/common/models/mask_rcnn_vitdet.py makes it."""
    node = cfg.TRANSFER.VIT
    vit = ViT(
        img_size=node.IMAGE_SIZE,
        patch_size=node.PATCH_SIZE,
        in_chans=input_shape.channels,
        embed_dim=node.WIDTH,
        depth=node.DEPTH,
        num_heads=node.HEADS,
        drop_path_rate=node.DROP_PATH,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        use_rel_pos=node.RELATIVE_POSITIONS,
        window_size=node.WINDOW_SIZE,
        window_block_indexes=[b for b in range(node.DEPTH) if b not in node.GLOBAL_BLOCKS],
        pretrain_img_size=node.PRETRAIN_IMAGE_SIZE,
        out_feature="last_feat",
    )
    top_block = LastLevelMaxPool()
    top_block.in_feature = f"p{int(math.log2(node.PATCH_SIZE)) + 1}"  # p5 of 16 px patches
    return SimpleFeaturePyramid(
        vit,
        in_feature="last_feat",
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        scale_factors=SCALES,
        top_block=top_block,
        norm=cfg.MODEL.FPN.NORM,
        square_pad=node.IMAGE_SIZE,
    )
