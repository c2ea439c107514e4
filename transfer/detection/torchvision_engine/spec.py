"""What a detector is made of: values named like Detectron2's config keys in, one checked spec out.

Field names are Detectron2's keys in lower case with the node's short name in front
(MODEL.RPN.NMS_THRESH -> rpn_nms_thresh, MODEL.ROI_HEADS.X -> roi_x, MODEL.ROI_BOX_HEAD.X -> box_x,
MODEL.ROI_MASK_HEAD.X -> mask_x, our TRANSFER.VIT.X -> vit_x); defaults are Detectron2's for the C4
model, of a ViT ViTDet's but for the drop path. Lengths are pixels of the network's input;
thresholds are IoU or probabilities in [0, 1]. `build.build_detector(**fields)` takes these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pretrain.common.errors import InputError
from transfer.checkpoints.networks.vit_architectures import vit_name
from transfer.detection.torchvision_engine.anchors import pair_rows
from transfer.detection.torchvision_engine.features import Features, choose_features

if TYPE_CHECKING:
    from pretrain.data.highpass import HighPass

ARCHITECTURES = ("C4", "FPN", "TINY", "VIT")
PYRAMIDS = ("FPN", "VIT")
DEPTHS = (18, 34, 50, 101)
NORMS = ("", "BN", "FrozenBN", "SyncBN", "nnSyncBN", "naiveSyncBN", "GN", "LN")


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """All that `build_detector` needs. Raises InputError for a value no detector here can have."""

    # "C4": res5 head; "FPN": p2..p6; "TINY": stride 8, fc head; "VIT": simple feature pyramid
    architecture: str = "C4"
    num_classes: int = 80  # foreground classes; background is the class after the last
    mask_on: bool = False
    # MODEL.RESNETS, MODEL.BACKBONE
    depth: int = 50  # 18, 34 (not with C4), 50, 101; without meaning for TINY and VIT
    norm: str = "FrozenBN"
    freeze_at: int = 2  # 0 nothing, 1 the stem, 2 stem + res2, ...
    stride_in_1x1: bool = True  # False for weights in torchvision's layout
    # TRANSFER.VIT; sides in pixels, but for the window's, which is in tokens
    vit_width: int = 768
    vit_depth: int = 12
    vit_heads: int = 12
    vit_patch_size: int = 16
    vit_image_size: int = 1024  # inputs are padded to such a square
    vit_pretrain_image_size: int = 224
    vit_window_size: int = 14
    vit_global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    vit_relative_positions: bool = True
    vit_drop_path: float = 0.0
    # IN_FEATURES and OUT_FEATURES; (): the usual ones of the architecture, see `features.py`
    resnet_out_features: tuple[str, ...] = ()
    fpn_in_features: tuple[str, ...] = ()
    rpn_in_features: tuple[str, ...] = ()
    roi_in_features: tuple[str, ...] = ()
    # MODEL.FPN, also of the simple feature pyramid
    fpn_out_channels: int = 256
    fpn_norm: str = ""
    # MODEL.ANCHOR_GENERATOR: one row per feature map; a single row serves all
    anchor_sizes: tuple[tuple[float, ...], ...] = ((32, 64, 128, 256, 512),)
    anchor_aspect_ratios: tuple[tuple[float, ...], ...] = ((0.5, 1.0, 2.0),)  # height / width
    anchor_offset: float = 0.0
    # MODEL.RPN
    rpn_iou_thresholds: tuple[float, float] = (0.3, 0.7)
    rpn_batch_size_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_bbox_reg_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_pre_nms_topk_train: int = 12000  # per feature map
    rpn_post_nms_topk_train: int = 2000  # per image
    rpn_pre_nms_topk_test: int = 6000
    rpn_post_nms_topk_test: int = 1000
    rpn_nms_thresh: float = 0.7
    rpn_num_conv: int = 1  # 3x3 convolutions before logits and deltas (CONV_DIMS' length)
    # MODEL.ROI_HEADS
    extra_norm: bool = (
        False  # True: NAME Res5ROIHeadsExtraNorm, a norm without ReLU after res5 (C4 only)
    )
    roi_batch_size_per_image: int = 512
    roi_positive_fraction: float = 0.25
    roi_iou_threshold: float = 0.5
    roi_proposal_append_gt: bool = True
    score_thresh_test: float = 0.05
    nms_thresh_test: float = 0.5
    # MODEL.ROI_BOX_HEAD; num_conv .. fc_dim are without meaning for C4
    box_pooler_resolution: int = 14
    box_pooler_sampling_ratio: int = 0
    box_bbox_reg_weights: tuple[float, ...] = (10.0, 10.0, 5.0, 5.0)
    box_head_num_conv: int = 0
    box_head_conv_dim: int = 256
    box_head_num_fc: int = 0
    box_head_fc_dim: int = 1024
    box_head_norm: str = ""
    # MODEL.ROI_MASK_HEAD; the pooler is without meaning for C4 (masks share res5's features)
    mask_pooler_resolution: int = 14
    mask_pooler_sampling_ratio: int = 0
    mask_num_conv: int = 0
    mask_conv_dim: int = 256
    mask_norm: str = ""
    # TEST, MODEL.PIXEL_*
    detections_per_image: int = 100
    pixel_mean: tuple[float, ...] = (103.53, 116.28, 123.675)  # in INPUT.FORMAT order, on 0..255
    pixel_std: tuple[float, ...] = (1.0, 1.0, 1.0)
    highpass: HighPass | None = None  # per image, after normalisation and before padding

    def __post_init__(self) -> None:
        """Check what the parts would only stumble over later."""
        if self.architecture not in ARCHITECTURES:
            raise InputError(f"unknown architecture '{self.architecture}'; known: {ARCHITECTURES}")
        if self.architecture == "VIT":
            self._check_vit()
        elif self.architecture != "TINY" and self.depth not in DEPTHS:
            raise InputError(f"MODEL.RESNETS.DEPTH {self.depth} is not supported; known: {DEPTHS}")
        if self.architecture == "C4" and self.depth < 50:
            raise InputError(
                f"MODEL.RESNETS.DEPTH {self.depth} has no C4 detector (its res5 head is made of "
                "bottleneck blocks); use an FPN config, or depth 50 or 101"
            )
        if self.extra_norm and self.architecture != "C4":
            raise InputError(
                f"Res5ROIHeadsExtraNorm needs a C4 backbone, got '{self.architecture}'"
            )
        for key in ("norm", "fpn_norm", "box_head_norm", "mask_norm"):
            if getattr(self, key) not in NORMS:
                raise InputError(f"unknown {key} '{getattr(self, key)}'; known: {NORMS}")
        if self.architecture != "C4" and self.box_head_num_conv + self.box_head_num_fc == 0:
            raise InputError("MODEL.ROI_BOX_HEAD needs NUM_CONV or NUM_FC above 0")
        if self.num_classes < 1:
            raise InputError(f"MODEL.ROI_HEADS.NUM_CLASSES must be at least 1: {self.num_classes}")
        pair_rows(self.anchor_sizes, self.anchor_aspect_ratios, len(self.features.rpn))

    def _check_vit(self) -> None:
        patch = self.vit_patch_size
        if patch < 4 or patch & (patch - 1):
            raise InputError(f"TRANSFER.VIT.PATCH_SIZE {patch} must be a power of two from 4")
        coarsest = 2 * patch  # the stride of p5
        if self.vit_image_size < 1 or self.vit_image_size % coarsest:
            raise InputError(
                f"TRANSFER.VIT.IMAGE_SIZE {self.vit_image_size} must be a multiple of {coarsest}, "
                "twice the patch"
            )
        if not 0 <= self.vit_drop_path < 1:
            raise InputError(f"TRANSFER.VIT.DROP_PATH {self.vit_drop_path} must be in [0, 1)")
        outside = [b for b in self.vit_global_blocks if not 0 <= b < self.vit_depth]
        if outside:
            raise InputError(
                f"TRANSFER.VIT.GLOBAL_BLOCKS {outside[0]} is no block of {self.vit_depth}"
            )
        if self.vit_width % self.vit_heads:
            raise InputError(
                f"TRANSFER.VIT.HEADS {self.vit_heads} does not divide the width {self.vit_width}"
            )
        if not self.fpn_norm:
            raise InputError("MODEL.FPN.NORM '' has no simple feature pyramid; set LN")

    @cached_property
    def features(self) -> Features:
        """Which feature maps each part takes; InputError for maps that the backbone has not."""
        return choose_features(
            self.architecture,
            resnet=self.resnet_out_features,
            fpn=self.fpn_in_features,
            rpn=self.rpn_in_features,
            roi=self.roi_in_features,
            patch_size=self.vit_patch_size,
        )

    @property
    def backbone_name(self) -> str:
        """The name of the backbone in pretrain.backbones, or timm's of a ViT, e.g. 'resnet50'."""
        if self.architecture == "VIT":
            return vit_name(self.vit_width, self.vit_patch_size, self.vit_pretrain_image_size)
        return "tiny_resnet" if self.architecture == "TINY" else f"resnet{self.depth}"
