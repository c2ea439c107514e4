"""Detectors for which both engines must agree, with their inputs and weights, without stored data.

The name of a case gives config keys, batches, and a state dict made from the names and shapes of
its entries. Everything random is a uniform draw of numpy, which gives exactly the same numbers on
every machine. The last bits of torch's normal draws depend on the processor.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.transfer.detection import specs

STEPS = 3  # optimiser steps of a case
# Small enough for a slow core; each image still has more candidates than are sampled.
SMALL = {
    "MODEL.ROI_HEADS.NUM_CLASSES": 5,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 40,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 60,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.01,
    "TEST.DETECTIONS_PER_IMAGE": 8,
}
TORCHVISION_LAYOUT = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": (123.675, 116.28, 103.53),
    "MODEL.PIXEL_STD": (58.395, 57.12, 57.375),
}
C4 = {"MODEL.BACKBONE.FREEZE_AT": 0}
# res5 on the regions is nearly all that a C4 detector costs: fewer of them, or 3 x 3 places of each
# and not 7 x 7
FEW_REGIONS = {
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 8,
}
SMALL_REGIONS = {"MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 6}
MASK_HEADS = {
    "MODEL.MASK_ON": True,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 64,
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 128,
    "MODEL.ANCHOR_GENERATOR.SIZES": specs.LEVELS,
    "MODEL.BACKBONE.FREEZE_AT": 0,
}
FPN = {**specs.FPN, **MASK_HEADS}
CONV4_FC1 = {
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 64,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 1,
}
FPN_R18 = {**FPN, **TORCHVISION_LAYOUT, **specs.R18, "MODEL.RESNETS.NORM": "FrozenBN"}
RETINANET = {
    **TORCHVISION_LAYOUT,
    **specs.R18,
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[x, x * 2 ** (1 / 3)] for x in (32, 64, 128, 256, 512)],
    "MODEL.RETINANET.NUM_CLASSES": 5,
    "MODEL.RETINANET.NUM_CONVS": 2,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.3,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 30,
}
RESNEXT = {"MODEL.RESNETS.NUM_GROUPS": 32, "MODEL.RESNETS.WIDTH_PER_GROUP": 4}
KEYPOINTS = {
    "MODEL.KEYPOINT_ON": True,
    "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
    "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (48, 32),
}
C5 = {
    **specs.C5,
    **MASK_HEADS,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128]],
    "MODEL.RESNETS.RES5_DILATION": 2,
}
CASES: dict[str, dict[str, Any]] = {
    # MoCo's and MSCN's VOC and COCO detectors
    "c4_voc": {
        **C4,
        **FEW_REGIONS,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "naiveSyncBN",
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    },
    "c4_mask": {
        **C4,
        **SMALL_REGIONS,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
        "MODEL.MASK_ON": True,
    },
    # Detectron2's own: MSRA's weights, BGR, stride in the 1x1 convolution, a frozen stem
    "c4_voc_frozen": {
        **C4,
        **SMALL_REGIONS,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "c4_mask_bn": {
        **C4,
        **SMALL_REGIONS,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.BACKBONE.FREEZE_AT": 3,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
        "MODEL.MASK_ON": True,
    },
    "fpn_mask": {
        **FPN,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "fpn_mask_bn": {**FPN, **TORCHVISION_LAYOUT, "MODEL.RESNETS.NORM": "BN"},
    "fpn_4conv1fc": {
        **FPN,
        **CONV4_FC1,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "SyncBN",
        "MODEL.FPN.NORM": "SyncBN",
        "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
        "MODEL.ROI_MASK_HEAD.NORM": "SyncBN",
    },
    "fpn_4conv1fc_frozen": {
        **FPN,
        **CONV4_FC1,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "fpn_r18": {**FPN_R18, "MODEL.RESNETS.NORM": "naiveSyncBN"},
    # Other feature maps than the usual ones: coarser, of a shorter pyramid, one for all boxes, p6
    # for boxes too, and proposals on another stage than the heads'
    "fpn_coarse_maps": {
        **FPN_R18,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[64], [128], [256], [512]],
        "MODEL.RPN.IN_FEATURES": ["p3", "p4", "p5", "p6"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5"],
    },
    "fpn_from_res3": {
        **FPN_R18,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[64, 128]],
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.RPN.IN_FEATURES": ["p5", "p3"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p3", "p4", "p5", "p6"],
    },
    "fpn_one_map": {
        **FPN_R18,
        "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128]],
        "MODEL.RPN.IN_FEATURES": ["p4"],
        "MODEL.ROI_HEADS.IN_FEATURES": ["p3"],
    },
    "c4_rpn_on_res3": {
        **C4,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4"],
        "MODEL.RPN.IN_FEATURES": ["res3"],
    },
    # Other losses of boxes; one box and one mask of a region for all classes, scored by sigmoids
    "fpn_giou": {
        **FPN_R18,
        "MODEL.RPN.BBOX_REG_LOSS_TYPE": "giou",
        "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 2.0,
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "giou",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT": 10.0,
    },
    "fpn_agnostic": {
        **FPN_R18,
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.RPN.LOSS_WEIGHT": 0.5,
        "MODEL.RPN.SMOOTH_L1_BETA": 0.1111,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
    },
    "fpn_ciou_pred_boxes": {
        **FPN_R18,
        "MODEL.RPN.BBOX_REG_LOSS_TYPE": "diou",
        "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "ciou",
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
    },
    # Group norm everywhere, as it is trained from scratch
    "fpn_gn": {
        **FPN_R18,
        **CONV4_FC1,
        "MODEL.RESNETS.NORM": "GN",
        "MODEL.FPN.NORM": "GN",
        "MODEL.ROI_BOX_HEAD.NORM": "GN",
        "MODEL.ROI_MASK_HEAD.NORM": "GN",
    },
    "fpn_r152": {
        **FPN,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.DEPTH": 152,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.MASK_ON": False,
    },
    # Detectron2's DC5: heads on a dilated res5. Proposals from res4 need a quarter of the weights.
    # Groups, and wide bottlenecks
    "c5_resnext": {
        **C5,
        **RESNEXT,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.RESNETS.OUT_FEATURES": ["res4", "res5"],
        "MODEL.RPN.IN_FEATURES": ["res4"],
    },
    "c5_frozen": {
        **C5,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.STRIDE_IN_1X1": True,
    },
    "fpn_resnext": {**FPN, **RESNEXT, **TORCHVISION_LAYOUT, "MODEL.RESNETS.NORM": "SyncBN"},
    "c4_resnext": {**C4, **RESNEXT, **TORCHVISION_LAYOUT, "MODEL.RESNETS.NORM": "FrozenBN"},
    "c4_wide": {
        **C4,
        **TORCHVISION_LAYOUT,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.WIDTH_PER_GROUP": 128,
    },
    # RetinaNet, its smooth L1 and its anchors; with another fusion, GIoU and GN in its head
    "retinanet": {**RETINANET},
    "retinanet_giou": {
        **RETINANET,
        "MODEL.FPN.FUSE_TYPE": "avg",
        "MODEL.RETINANET.NORM": "GN",
        "MODEL.RETINANET.NUM_CONVS": 1,
        "MODEL.RETINANET.IN_FEATURES": ["p3", "p4", "p5", "p7"],
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE": "giou",
        "MODEL.ANCHOR_GENERATOR.SIZES": [[48, 96]],
        "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.4,
        "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 1.5,
    },
    "cascade": {
        **FPN_R18,
        **CONV4_FC1,
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.NORM": "GN",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.3,
    },
    # Keypoint R-CNN: also with masks; with the other divisor, refined boxes and one map; in a
    # cascade
    "fpn_keypoints": {**FPN_R18, **KEYPOINTS},
    "c5_keypoints": {
        **C5,
        **TORCHVISION_LAYOUT,
        **KEYPOINTS,
        "MODEL.MASK_ON": False,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES": True,
        "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": False,
        "MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT": 4.0,
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE": "ROIAlign",
        "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION": 5,
    },
    "cascade_keypoints": {
        **FPN_R18,
        **KEYPOINTS,
        "MODEL.ROI_HEADS.NAME": "CascadeROIHeads",
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True,
        "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE": True,
    },
    # ViTDet: windows that do not divide the map, positions of a different grid, all norms "LN"
    "vitdet": {
        **specs.VIT,
        **MASK_HEADS,
        **CONV4_FC1,
        **TORCHVISION_LAYOUT,
        "MODEL.FPN.NORM": "LN",
        "MODEL.ROI_BOX_HEAD.NORM": "LN",
        "MODEL.ROI_MASK_HEAD.NORM": "LN",
        "MODEL.RPN.CONV_DIMS": [-1, -1],
        "TRANSFER.VIT.WIDTH": 96,
        "TRANSFER.VIT.DEPTH": 4,
        "TRANSFER.VIT.HEADS": 3,
        "TRANSFER.VIT.IMAGE_SIZE": 224,
        "TRANSFER.VIT.PRETRAIN_IMAGE_SIZE": 112,
        "TRANSFER.VIT.WINDOW_SIZE": 4,
        "TRANSFER.VIT.GLOBAL_BLOCKS": (1, 3),
        "TRANSFER.VIT.DROP_PATH": 0.2,
    },
}
# ViTDet's optimiser for it: AdamW, with lower rates for earlier layers.
ADAMW = {"vitdet": {"base_lr": 1e-4, "weight_decay": 0.1, "layer_decay": 0.7}}
# Compared with the real Detectron2 only, without a golden file
SLOW = ("c4_rpn_on_res3", "fpn_r152", "c5_frozen", "fpn_resnext", "c4_resnext", "c4_wide")
SLOW += ("c5_keypoints", "cascade_keypoints")
PRECISE_BN = ("c4_voc", "fpn_r18")  # the cases whose statistics are replaced at the end
# Standard deviation of a layer's output over the root mean square of its input, by part of the name
# (later rows win; 1.4 elsewhere): scores that are neither all equal nor saturated.
GAINS = {
    "stem": 0.5,
    "fpn_": 0.7,
    "simfp_": 0.7,
    "net.blocks": 0.7,
    "rpn_head.conv": 1.0,
    "objectness_logits": 1.0,
    "anchor_deltas": 0.2,
    "predictor": 0.7,
    "bbox_pred": 0.2,
}
# Image sizes (height, width) and their boxes, XYXY in pixels.
USUAL = ((80, 112), [(4, 6, 70, 60), (30, 20, 31, 21), (50.5, 10, 108, 77), (8, 40, 40, 72)])
EMPTY = ((96, 80), [])
ONE_BOX = ((88, 72), [(12.25, 9.5, 60, 80)])
WIDE = ((32, 208), [(2, 3, 206, 9), (100, 0, 104, 32), (0, 0, 208, 32)])
SQUARE = ((64, 64), [(10, 1, 13, 63), (5, 5, 45, 50)])
TRAINING = ((USUAL, ONE_BOX), (EMPTY, ONE_BOX), (WIDE, SQUARE))
NOTHING = (EMPTY, EMPTY)  # a batch without a single object
TEST = (USUAL, WIDE)


def keys_of(case: str) -> dict[str, Any]:
    """The config keys that are not at their defaults."""
    return {**SMALL, **CASES[case]}


def make_batch(layout: tuple, seed: int) -> list[dict[str, Any]]:
    """Images of noise with boxes, classes, two polygons and three keypoints per object."""
    rng = np.random.default_rng(seed)
    batch = []
    for (height, width), boxes in layout:
        pixels = rng.integers(0, 256, (3, height, width), np.uint8)
        classes = rng.integers(0, SMALL["MODEL.ROI_HEADS.NUM_CLASSES"], len(boxes))
        batch.append(
            {
                "image": torch.from_numpy(pixels),
                "height": int(height * 1.37),
                "width": int(width * 1.21),
                "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
                "classes": torch.from_numpy(classes),
                "polygons": [_two_polygons(*box) for box in boxes],
                "keypoints": _three_keypoints(boxes, seed),
            }
        )
    return batch


def takes_nothing(case: str) -> bool:
    """Whether a batch without objects can be trained on: SyncBN refuses the empty mask head."""
    return CASES[case].get("MODEL.ROI_MASK_HEAD.NORM") != "SyncBN"


def training_batch(step: int) -> list[dict[str, Any]]:
    """The batch of an optimiser step: usual and 1 px objects; an image without; extreme shapes."""
    return make_batch(TRAINING[step % len(TRAINING)], 10 + step)


def make_state(entries: Mapping[str, Tensor], keys: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights for the names and shapes of a state dict, with activations near one, also frozen."""
    state = {}
    for name, value in entries.items():
        if not value.is_floating_point():
            state[name] = torch.zeros_like(value)
            continue
        low, high = _range(name, tuple(value.shape), keys)
        draw = np.random.default_rng(zlib.crc32(name.encode())).random(value.shape)
        state[name] = torch.from_numpy((low + (high - low) * draw).astype(np.float32))
    return state


def _range(name: str, shape: tuple[int, ...], keys: Mapping[str, Any]) -> tuple[float, float]:
    """The interval that an entry is drawn from."""
    if ".norm." in name:
        if name.endswith("running_var"):
            return 0.5, 1.5
        if name.endswith("weight"):
            # Small shares of the blocks keep sums over many of them near one, and gradients tame.
            last = "conv3.norm" in name or (
                keys.get("MODEL.RESNETS.DEPTH") == 18 and "conv2.norm" in name
            )
            if last and "res" in name:
                return 0.05, 0.2
            if "shortcut" in name:
                return 0.5, 0.9
            return 0.5, 1.5
        if name.endswith("weight"):
            # Small shares of the blocks keep sums over many of them near one, and gradients tame.
            last = "conv3.norm" in name or (
                keys.get("MODEL.RESNETS.DEPTH") == 18 and "conv2.norm" in name
            )
            if "shortcut" in name or (last and "res" in name):
                return 0.1, 0.6
            return 0.5, 1.5
        return -0.2, 0.2
    if name.endswith("bias"):
        return -0.05, 0.05
    if len(shape) == 1:  # a layer norm's weight
        return 0.5, 1.5
    if "_pos" in name or "pos_" in name:  # of a ViT
        return -0.5, 0.5
    transposed = (
        "deconv" in name or "score_lowres" in name or ("simfp_" in name and shape[2:] == (2, 2))
    )
    inputs = shape[0] if transposed else math.prod(shape[1:])
    gain = math.sqrt(2.0)
    for part, value in GAINS.items():
        if part in name:
            gain = value
    if "stem" in name and keys.get("MODEL.PIXEL_STD", (1.0,))[0] == 1:
        gain /= 57.0
    side = gain * math.sqrt(3.0 / inputs)
    return -side, side


def _three_keypoints(boxes: list, seed: int) -> Tensor:
    """(n, 3, 3): one anywhere in the box, one in its last corner, one that may be outside or not
    labelled."""
    rng = np.random.default_rng(1000 + seed)
    places = np.array(boxes, np.float64).reshape(-1, 2, 2)
    low, size = places[:, 0], places[:, 1] - places[:, 0]
    points = np.empty((len(places), 3, 3), np.float32)
    points[:, 0, :2] = low + size * rng.random(low.shape)
    points[:, 1, :2] = places[:, 1]
    points[:, 2, :2] = low + size * rng.uniform(-0.5, 1.5, low.shape)
    points[..., 2] = (2, 1, 0)
    points[:, 2, 2] = rng.integers(0, 3, len(places))
    return torch.from_numpy(points)


def _two_polygons(x1: float, y1: float, x2: float, y2: float) -> list[np.ndarray]:
    middle = (x1 + x2) / 2
    return [
        np.array([x1, y1, middle, y1 + 1, x1 + 1, y2], dtype=np.float64),
        np.array([middle, y1, x2, y1, x2, y2, middle, y2], dtype=np.float64),
    ]
