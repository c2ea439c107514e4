"""Detectors for tests, from a few config keys; every other key has its default.

`FPN`, `C5`, `TINY` and `VIT` are the keys that turn the defaults, a C4 detector, into a detector of
this kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretrain.data.highpass import HighPass
from transfer.detection.config import changed
from transfer.detection.defaults import make_defaults
from transfer.detection.torchvision_engine.meta_architectures import find_spec

STANDARD = {
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
}
PYRAMID = {
    **STANDARD,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
}
FPN = {
    **PYRAMID,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
}
TINY = {**STANDARD, "MODEL.BACKBONE.NAME": "build_tiny_resnet_backbone"}
C5 = {
    **STANDARD,
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.RPN.IN_FEATURES": ["res5"],
    "MODEL.ROI_HEADS.IN_FEATURES": ["res5"],
}
VIT = {**PYRAMID, "MODEL.BACKBONE.NAME": "build_vit_sfp_backbone"}
R18 = {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64}
LEVELS = [[32], [64], [128], [256], [512]]  # one size of anchors on each map of a pyramid


def make_spec(keys: Mapping[str, Any], highpass: HighPass | None = None) -> Any:
    """A `DetectorSpec`, or the spec of the meta-architecture that the keys name."""
    cfg = changed(make_defaults(), keys)
    return find_spec(cfg.MODEL.META_ARCHITECTURE).from_config(cfg, highpass)


def make_detector(keys: Mapping[str, Any], highpass: HighPass | None = None) -> Any:
    return make_spec(keys, highpass).build()
