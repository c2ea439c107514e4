"""From a spec to a detector: plain keyword arguments in, `Detector` out.

Parts are made in Detectron2's order, so that a seed gives the same random weights in both.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from transfer.detection.torchvision_engine.anchors import AnchorGenerator
from transfer.detection.torchvision_engine.batchnorm import make_norm
from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.box_head import BoxPredictor, ConvFCHead
from transfer.detection.torchvision_engine.detector import Detector
from transfer.detection.torchvision_engine.fpn import FPN
from transfer.detection.torchvision_engine.mask_head import MaskHead
from transfer.detection.torchvision_engine.pooler import RoiPooler
from transfer.detection.torchvision_engine.resnet import (
    ResNet,
    make_resnet,
    make_stage,
    make_tiny_resnet,
)
from transfer.detection.torchvision_engine.roi_heads import (
    Res5ROIHeads,
    RoiHeads,
    RoiSampler,
    StandardROIHeads,
)
from transfer.detection.torchvision_engine.rpn import RPN
from transfer.detection.torchvision_engine.simple_pyramid import SimpleFeaturePyramid
from transfer.detection.torchvision_engine.spec import PYRAMIDS, DetectorSpec
from transfer.detection.torchvision_engine.vit import ViT

Backbone = ResNet | FPN | SimpleFeaturePyramid


def build_detector(**fields: Any) -> Detector:
    """Build an untrained detector in training mode.

    Args:
        fields: those of `DetectorSpec`, which states names, units and defaults.

    Raises:
        InputError: a combination that has no detector, e.g. C4 with depth 18.
    """
    spec = DetectorSpec(**fields)
    backbone = _backbone(spec)
    rpn_features = spec.features.rpn
    strides = [backbone.strides[name] for name in rpn_features]
    anchors = AnchorGenerator(
        sizes=spec.anchor_sizes,
        ratios=spec.anchor_aspect_ratios,
        strides=strides,
        offset=spec.anchor_offset,
    )
    proposal_generator = RPN(
        channels=backbone.channels[rpn_features[0]],
        anchors=anchors,
        coder=BoxCoder(spec.rpn_bbox_reg_weights),
        iou_thresholds=spec.rpn_iou_thresholds,
        batch_size_per_image=spec.rpn_batch_size_per_image,
        positive_fraction=spec.rpn_positive_fraction,
        pre_nms_topk={True: spec.rpn_pre_nms_topk_train, False: spec.rpn_pre_nms_topk_test},
        post_nms_topk={True: spec.rpn_post_nms_topk_train, False: spec.rpn_post_nms_topk_test},
        nms_thresh=spec.rpn_nms_thresh,
        num_conv=spec.rpn_num_conv,
    )
    heads = _res5_heads(spec) if spec.architecture == "C4" else _standard_heads(spec, backbone)
    return Detector(
        spec,
        backbone=backbone,
        proposal_generator=proposal_generator,
        roi_heads=heads,
        rpn_features=rpn_features,
        leaves_unused=_leaves_unused(spec, backbone),
    )


def _leaves_unused(spec: DetectorSpec, backbone: Backbone) -> bool:
    """Whether a pyramid makes a map that nothing uses: its layers then get no gradient."""
    if spec.architecture not in PYRAMIDS:
        return False
    *own, top = backbone.out_features  # the top map is made of the one before it
    used = {*spec.features.rpn, *spec.features.roi}
    return bool(set(own[:-1]) - used) or not used & {own[-1], top}


def _backbone(spec: DetectorSpec) -> Backbone:
    if spec.architecture == "VIT":
        return _vit_pyramid(spec)
    if spec.architecture == "TINY":
        return make_tiny_resnet(norm=spec.norm, freeze_at=spec.freeze_at)
    resnet = make_resnet(
        depth=spec.depth,
        norm=spec.norm,
        freeze_at=spec.freeze_at,
        stride_in_1x1=spec.stride_in_1x1,
        out_features=spec.features.resnet,
    )
    if spec.architecture == "C4":
        return resnet
    return FPN(
        resnet,
        out_channels=spec.fpn_out_channels,
        norm=spec.fpn_norm,
        in_features=spec.features.fpn,
    )


def _vit_pyramid(spec: DetectorSpec) -> SimpleFeaturePyramid:
    vit = ViT(
        width=spec.vit_width,
        depth=spec.vit_depth,
        heads=spec.vit_heads,
        patch_size=spec.vit_patch_size,
        image_size=spec.vit_image_size,
        pretrain_image_size=spec.vit_pretrain_image_size,
        window_size=spec.vit_window_size,
        global_blocks=spec.vit_global_blocks,
        drop_path=spec.vit_drop_path,
        relative_positions=spec.vit_relative_positions,
    )
    return SimpleFeaturePyramid(
        vit,
        out_channels=spec.fpn_out_channels,
        norm=spec.fpn_norm,
        square_size=spec.vit_image_size,
    )


def _res5_heads(spec: DetectorSpec) -> RoiHeads:
    channels = 2048
    res5 = make_stage(
        depth=50,  # three blocks, as every bottleneck ResNet's last stage
        stage=5,
        inputs=channels // 2,
        norm=spec.norm,
        stride_in_1x1=spec.stride_in_1x1,
    )
    if spec.extra_norm:
        res5.add_module("norm", make_norm(spec.norm, channels) or nn.Identity())
    pooler = RoiPooler(
        resolution=spec.box_pooler_resolution,
        strides=(16,),
        sampling_ratio=spec.box_pooler_sampling_ratio,
    )
    predictor = _predictor(spec, channels)
    mask_head = _mask_head(spec, channels)
    return Res5ROIHeads(
        res5=res5,
        pooler=pooler,
        feature="res4",
        sampler=_sampler(spec),
        predictor=predictor,
        mask_head=mask_head,
    )


def _standard_heads(spec: DetectorSpec, backbone: Backbone) -> RoiHeads:
    names = spec.features.roi
    strides = [backbone.strides[name] for name in names]
    channels = backbone.channels[names[0]]
    box_head = ConvFCHead(
        channels=channels,
        resolution=spec.box_pooler_resolution,
        num_conv=spec.box_head_num_conv,
        conv_dim=spec.box_head_conv_dim,
        num_fc=spec.box_head_num_fc,
        fc_dim=spec.box_head_fc_dim,
        norm=spec.box_head_norm,
    )
    predictor = _predictor(spec, box_head.out_dim)
    mask_head = _mask_head(spec, channels)
    return StandardROIHeads(
        box_head=box_head,
        box_pooler=RoiPooler(
            resolution=spec.box_pooler_resolution,
            strides=strides,
            sampling_ratio=spec.box_pooler_sampling_ratio,
        ),
        mask_pooler=RoiPooler(
            resolution=spec.mask_pooler_resolution,
            strides=strides,
            sampling_ratio=spec.mask_pooler_sampling_ratio,
        ),
        in_features=names,
        sampler=_sampler(spec),
        predictor=predictor,
        mask_head=mask_head,
    )


def _sampler(spec: DetectorSpec) -> RoiSampler:
    return RoiSampler(
        num_classes=spec.num_classes,
        batch_size_per_image=spec.roi_batch_size_per_image,
        positive_fraction=spec.roi_positive_fraction,
        iou_threshold=spec.roi_iou_threshold,
        append_gt=spec.roi_proposal_append_gt,
    )


def _predictor(spec: DetectorSpec, inputs: int) -> BoxPredictor:
    return BoxPredictor(
        inputs=inputs,
        num_classes=spec.num_classes,
        coder=BoxCoder(spec.box_bbox_reg_weights),
        score_thresh=spec.score_thresh_test,
        nms_thresh=spec.nms_thresh_test,
        detections_per_image=spec.detections_per_image,
    )


def _mask_head(spec: DetectorSpec, channels: int) -> MaskHead | None:
    if not spec.mask_on:
        return None
    return MaskHead(
        channels=channels,
        num_conv=spec.mask_num_conv,
        conv_dim=spec.mask_conv_dim,
        norm=spec.mask_norm,
        num_classes=spec.num_classes,
    )
