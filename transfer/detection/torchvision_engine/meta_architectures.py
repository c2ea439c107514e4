"""The detectors by MODEL.META_ARCHITECTURE: `find_spec(name)` reads the config."""

from __future__ import annotations

from collections.abc import Mapping

from pretrain.common.lookup import find
from transfer.detection.torchvision_engine.detector import BaseSpec, DetectorSpec
from transfer.detection.torchvision_engine.retinanet import RetinaNetSpec

META_ARCHITECTURES: Mapping[str, type[BaseSpec]] = {
    "GeneralizedRCNN": DetectorSpec,
    "RetinaNet": RetinaNetSpec,
}
# Where each says how many classes it has.
NUM_CLASSES: Mapping[str, str] = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}


def find_spec(meta_architecture: str) -> type[BaseSpec]:
    """Returns the spec that reads the config of a detector; InputError for an unknown name."""
    return find(meta_architecture, META_ARCHITECTURES, "MODEL.META_ARCHITECTURE")
