"""Detectron2's own ViT and simple feature pyramid as a backbone of its configs.

The import registers the backbone `build_vit_sfp_backbone`, which reads the node `TRANSFER.VIT`. In
Detectron2 itself ViTDet can only be built from Python files ("lazy configs").
"""

from __future__ import annotations

from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from transfer.detection.torchvision_engine.simple_pyramid import SCALES, SimplePyramidSpec
from transfer.detection.torchvision_engine.vit import NORM_EPS


@BACKBONE_REGISTRY.register()
def build_vit_sfp_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SimpleFeaturePyramid:
    """Returns ViTDet's backbone, as Detectron2's configs/common/models/mask_rcnn_vitdet.py makes
    it.
    """
    pyramid = SimplePyramidSpec.from_config(cfg)
    spec = pyramid.vit
    vit = ViT(
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        in_chans=input_shape.channels,
        embed_dim=spec.width,
        depth=spec.depth,
        num_heads=spec.heads,
        drop_path_rate=spec.drop_path,
        norm_layer=partial(nn.LayerNorm, eps=NORM_EPS),
        use_rel_pos=spec.relative_positions,
        window_size=spec.window_size,
        window_block_indexes=[b for b in range(spec.depth) if b not in spec.global_blocks],
        pretrain_img_size=spec.pretrain_image_size,
        out_feature="last_feat",
    )
    top_block = LastLevelMaxPool()
    # the default, p5, is right for patches of 16 px
    top_block.in_feature = f"p{pyramid.levels[-1]}"
    return SimpleFeaturePyramid(
        vit,
        in_feature="last_feat",
        out_channels=pyramid.out_channels,
        scale_factors=SCALES,
        top_block=top_block,
        norm=pyramid.norm,
        square_pad=spec.image_size,
    )
