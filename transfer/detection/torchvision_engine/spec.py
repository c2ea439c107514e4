"""What a detector is made of: values named like Detectron2's config keys in, one checked spec out.

Field names are Detectron2's keys in lower case with the node's short name in front
(MODEL.RPN.NMS_THRESH -> rpn_nms_thresh, MODEL.ROI_HEADS.X -> roi_x, MODEL.ROI_BOX_HEAD.X -> box_x,
MODEL.ROI_MASK_HEAD.X -> mask_x); defaults are Detectron2's for the C4 model. Lengths are pixels of
the network's input; thresholds are IoU or probabilities in [0, 1]. `build.build_detector(**fields)`
takes these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pretrain.common.errors import InputError

if TYPE_CHECKING:
    from pretrain.data.highpass import HighPass

ARCHITECTURES = ("C4", "FPN", "TINY")
DEPTHS = (18, 34, 50, 101)
NORMS = ("", "BN", "FrozenBN", "SyncBN", "nnSyncBN", "naiveSyncBN", "GN")


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """All that `build_detector` needs. Raises InputError for a value no detector here can have."""

    architecture: str = "C4"  # "C4": res5 head; "FPN": p2..p6; "TINY": stride 8, fc head
    num_classes: int = 80  # foreground classes; background is the class after the last
    mask_on: bool = False
    # MODEL.RESNETS, MODEL.BACKBONE
    depth: int = 50  # 18, 34 (not with C4), 50, 101; without meaning for TINY
    norm: str = "FrozenBN"
    freeze_at: int = 2  # 0 nothing, 1 the stem, 2 stem + res2, ...
    stride_in_1x1: bool = True  # False for weights in torchvision's layout
    # MODEL.FPN
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
        if self.architecture != "TINY" and self.depth not in DEPTHS:
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

    @property
    def backbone_name(self) -> str:
        """The name of the backbone in pretrain.backbones, e.g. 'resnet50'."""
        return "tiny_resnet" if self.architecture == "TINY" else f"resnet{self.depth}"
