"""Copies weights into a detector, and reports what happened to every key.

A backbone's tensors have torchvision's names, those of a complete model have Detectron2's, which
are those of `Detector.state_dict`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.names.layouts import to_detectron2
from transfer.checkpoints.names.vit import UNUSED, VITDET, to_vitdet
from transfer.checkpoints.networks.vit_architectures import vit_heads
from transfer.checkpoints.weights import COUNTER, Weights
from transfer.detection.torchvision_engine.detector import BaseDetector
from transfer.detection.torchvision_engine.simple_pyramid import SimplePyramidSpec
from transfer.detection.torchvision_engine.timm_convnet import NETWORK, TimmConvNet
from transfer.detection.weights.detector_file import DERIVED, DetectorWeights
from transfer.detection.weights.matched_parts import PREFIXES, part_of

logger = logging.getLogger(__name__)

EXTRA_NORM = "roi_heads.res5.norm."


@dataclass(frozen=True)
class LoadReport:
    """Says what happened to the keys, sorted.

    Attributes:
        matched: names of the detector's tensors that are loaded.
        expected_missing: names of those that keep their initialisation by design: RPN, heads,
            pyramid, extra norm, relative positions.
        unexpected: names of the backbone's tensors that the file does not have, and of the file's
            that have no place in the detector.
    """

    matched: list[str]
    expected_missing: list[str]
    unexpected: list[str]

    def line(self) -> str:
        """Returns one line for the log, with counts by part; `names` has every tensor."""
        parts = [
            f"{len(self.matched)} tensors loaded",
            f"{len(self.expected_missing)} left at their initialisation as expected"
            + _by_part(self.expected_missing),
        ]
        if self.unexpected:
            parts.append(f"{len(self.unexpected)} unexpected" + _by_part(self.unexpected))
        return "; ".join(parts)

    def names(self) -> list[str]:
        """Returns a line for each fate with the tensors' names, for those who ask for more."""
        fates = {"left": self.expected_missing, "unexpected": self.unexpected}
        return [f"{fate}: {', '.join(names)}" for fate, names in fates.items() if names]


def load_starting_weights(detector: BaseDetector, weights: Weights) -> LoadReport:
    """Copies what training starts from: a backbone, or the fitting parts of a complete detector."""
    if isinstance(weights, DetectorWeights):
        return _load(detector, weights.fitting, required=set(), allow_unexpected=False)
    return load_backbone(detector, weights)


def load_backbone(
    detector: BaseDetector, weights: Weights, *, allow_unexpected: bool = False
) -> LoadReport:
    """Copies a backbone into `backbone` and, for C4, into the res5 head.

    Raises:
        InputError: the backbone is not the detector's, a shape is wrong, nothing matches, or there
            are unexpected keys without `allow_unexpected`.
    """
    wanted = detector.spec.backbone_name
    if weights.backbone != wanted:
        raise InputError(
            f"the weights are a {weights.backbone}, but the detector's backbone is {wanted}; choose"
            " the config (MODEL.BACKBONE.NAME; DEPTH, NUM_GROUPS and WIDTH_PER_GROUP of "
            "MODEL.RESNETS; TRANSFER.VIT) of the weights' backbone"
        )
    if isinstance(detector.spec.backbone, SimplePyramidSpec):
        return _load_vit(detector, detector.spec.backbone.vit.heads, weights, allow_unexpected)
    strides, resnet = bool(weights.architecture.get("stride_in_1x1")), detector.spec.resnet
    built = None if resnet is None or resnet.depth < 50 else resnet.blocks.stride_in_1x1
    if built is not None and built != strides:
        logger.warning(
            "MODEL.RESNETS.STRIDE_IN_1X1 is %s, but these weights were trained with %s",
            built,
            strides,
        )
    network = timm_network(detector)
    if network is not None and strides:
        raise InputError(
            f"the weights' bottlenecks stride in their first convolution, but those of timm's "
            f"{wanted} do not; take MODEL.BACKBONE.NAME build_resnet_fpn_backbone"
        )
    kept = {k: v for k, v in weights.state.items() if not (network and network.is_left_out(k))}
    placed = {_place(detector, name): tensor for name, tensor in kept.items()}
    own = {key for key in detector.state_dict() if _in_trunk(detector, key)}
    return _load(detector, placed, required=own, allow_unexpected=allow_unexpected)


def _load_vit(
    detector: BaseDetector, own_heads: int, weights: Weights, allow_unexpected: bool
) -> LoadReport:
    heads = vit_heads(weights.backbone, weights.architecture)
    if heads != own_heads:
        raise InputError(
            f"the weights' attention has {heads} heads, the detector's has {own_heads}; set "
            f"TRANSFER.VIT.HEADS {heads}"
        )
    placed = {
        to_vitdet(name): tensor
        for name, tensor in weights.state.items()
        if not name.startswith(UNUSED)
    }
    own = {
        key for key in detector.state_dict() if key.startswith(VITDET) and ".rel_pos_" not in key
    }
    return _load(detector, placed, required=own, allow_unexpected=allow_unexpected)


def load_model(detector: BaseDetector, state: Mapping[str, Tensor | np.ndarray]) -> LoadReport:
    """Copies a complete model, ours or Detectron2's (`model_final.pth` or a zoo .pkl, key "model").

    Raises:
        InputError: as `load_backbone`.
    """
    placed = {
        name: torch.as_tensor(value)
        for name, value in state.items()
        if not name.startswith(DERIVED)
    }
    own = set(detector.state_dict())
    return _load(detector, placed, required=own, allow_unexpected=False)


def _place(detector: BaseDetector, name: str) -> str:
    """Returns the detector's name of a backbone's tensor; its own name if it has no place."""
    if timm_network(detector) is not None:
        return f"{NETWORK}{name}"
    theirs = to_detectron2(name)
    if theirs is None:
        return name
    if detector.spec.architecture == "FPN":
        return f"backbone.bottom_up.{theirs}"
    if detector.spec.architecture == "C4" and theirs.startswith("res5."):
        return f"roi_heads.{theirs}"
    return f"backbone.{theirs}"


def timm_network(detector: BaseDetector) -> TimmConvNet | None:
    """Returns the network of timm's under its pyramid; None if it has another backbone."""
    bottom_up = getattr(detector.backbone, "bottom_up", None)
    return bottom_up if isinstance(bottom_up, TimmConvNet) else None


def _in_trunk(detector: BaseDetector, key: str) -> bool:
    if timm_network(detector) is not None:
        return key.startswith(NETWORK)
    if detector.spec.architecture == "FPN":
        return key.startswith("backbone.bottom_up.")
    return key.startswith(("backbone.", "roi_heads.res5.")) and not key.startswith(EXTRA_NORM)


def _load(
    detector: BaseDetector,
    placed: Mapping[str, Tensor],
    *,
    required: set[str],
    allow_unexpected: bool,
) -> LoadReport:
    own = detector.state_dict()
    matched = sorted(name for name in placed if name in own)
    if not any(not name.endswith(COUNTER) for name in matched):
        raise InputError(
            f"none of the {len(placed)} tensors of the weights has a place in the detector; give "
            "weights of a detector like this one, or of its backbone"
        )
    for name in matched:
        if own[name].shape != placed[name].shape:
            raise InputError(
                f"'{name}' has shape {tuple(placed[name].shape)} in the weights and"
                f" {tuple(own[name].shape)} in the detector: a different depth or number of"
                " classes, or a different number of anchors"
            )
    missing = [name for name in own if name not in placed and not name.endswith(COUNTER)]
    homeless = [name for name in placed if name not in own and not name.endswith(COUNTER)]
    unexpected = sorted([*homeless, *(name for name in missing if name in required)])
    if unexpected and not allow_unexpected:
        raise InputError(
            f"{len(unexpected)} tensors are only in the detector or only in the weights; the first "
            f"is '{unexpected[0]}'"
        )
    with torch.no_grad():
        for name in matched:
            own[name].copy_(placed[name])  # state_dict shares the detector's memory
    expected = sorted(name for name in missing if name not in required)
    return LoadReport(matched, expected, unexpected)


def _by_part(names: list[str]) -> str:
    """Returns the counts by part, such as ": FPN 16, RPN 6", in the order of a forward pass."""
    counts = Counter(part_of(name) for name in names)
    order = [*dict.fromkeys(PREFIXES.values()), *sorted(counts)]
    parts = [f"{part} {counts[part]}" for part in dict.fromkeys(order) if part in counts]
    return f": {', '.join(parts)}" if parts else ""
