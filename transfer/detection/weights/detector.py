"""A whole detector's file as weights to start from.

In: `model_final.pth` or a periodic checkpoint of either engine, or a `.pkl` of Detectron2's model
zoo. Out: `DetectorWeights`, or the canonical weights of its backbone alone. The identity of a
detector is the sha256 of all its tensors: two of them may share a backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from transfer.checkpoints.files import file_sha256, source_stem
from transfer.checkpoints.names.layouts import from_detectron2
from transfer.checkpoints.names.vit import UNUSED, VITDET, from_vitdet
from transfer.checkpoints.networks.architectures import (
    expected_shapes,
    nearest_backbone,
)
from transfer.checkpoints.odd_values import check_values
from transfer.checkpoints.readers.raw import open_file
from transfer.checkpoints.sources import resolve
from transfer.checkpoints.unmatched_keys import check_complete
from transfer.checkpoints.weights import Weights, make_provenance, tensors_sha256
from transfer.detection.weights.config_beside import Stated, named_classes
from transfer.detection.weights.parts import DERIVED
from transfer.training.files import ModelFile, read_model

HEADS = ("proposal_generator.", "roi_heads.")  # every GeneralizedRCNN has both
# Where a trunk lies in a detector: FPN's, C4's, and C4's last stage.
TRUNKS = ("backbone.bottom_up.", "backbone.", "roi_heads.")
# Kinds of files: a GeneralizedRCNN, another model of Detectron2, and whatever has no heads of it.
DETECTOR, OTHER_MODEL, BACKBONE = "detector", "other model", "backbone"

Unsaid = Callable[[Path], Stated]


@dataclass(frozen=True)
class DetectorWeights(Weights):
    """The backbone's weights as `Weights` has them, and those of the detector around it.

    Attributes:
        detector: all of the file's tensors, under Detectron2's names.
        fitting: those that the detector which is built starts from; see `parts.match_parts`.
        classes: names of the predictors' classes, in their order; None if they are not known.
    """

    detector: Mapping[str, Tensor] = field(default_factory=dict)
    fitting: Mapping[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    @cached_property
    def sha256(self) -> str:
        """Identity of all tensors, BN's counters left out."""
        return tensors_sha256(self.detector)


def kind_of(source: str) -> str:
    """DETECTOR, OTHER_MODEL or BACKBONE, by the names of the tensors.

    Raises:
        InputError: unreadable.
    """
    model = open_file(resolve(source).file).content.get("model")
    names = [str(name) for name in model] if isinstance(model, Mapping) else []
    if all(any(name.startswith(head) for name in names) for head in HEADS):
        return DETECTOR
    # A ViT alone is converted to ViTDet's names, so that they do not tell a model from a backbone
    trunks = (name for name in names if not name.startswith(VITDET))
    if any(name.startswith("backbone.") and _canonical(name) for name in trunks):
        return OTHER_MODEL
    return BACKBONE


def architecture_of(names: Iterable[str]) -> str:
    """ "FPN", "C4", "TINY" or "VIT", as `config.architecture`."""
    prefixes = {".".join(name.split(".")[:2]) for name in names}
    if VITDET.rstrip(".") in prefixes:
        return "VIT"
    if "backbone.bottom_up" in prefixes:
        return "FPN"
    return "C4" if "roi_heads.res5" in prefixes else "TINY"


def read_detector(source: str, unsaid: Unsaid) -> DetectorWeights:
    """The detector in a file; `fitting` is left empty.

    Args:
        unsaid: the file's path -> what decides its numbers beside its tensors; asked if the file
            itself does not say, as none of Detectron2's own does.

    Raises:
        InputError: unreadable, no detector, or its backbone is no whole ResNet or ViT.
    """
    weights, tensors, model = _read(source, HEADS[1], unsaid)
    classes = named_classes(model, resolve(source).file)
    return DetectorWeights(**vars(weights), detector=tensors, classes=classes)


def read_trunk(source: str, unsaid: Unsaid) -> Weights:
    """The backbone alone of any model of Detectron2; see `read_detector`."""
    return _read(source, "backbone.", unsaid)[0]


def _read(source: str, part: str, unsaid: Unsaid) -> tuple[Weights, dict[str, Tensor], ModelFile]:
    file = resolve(source).file
    model = read_model(file, part)
    tensors = {name: _float32(v) for name, v in model.state.items() if not name.startswith(DERIVED)}
    trunk = {place: v for name, v in tensors.items() if (place := _canonical(name)) is not None}
    backbone, likeness = nearest_backbone(trunk)
    if likeness < 0.5:
        raise InputError(
            f"{source}: the backbone of this detector is no ResNet or ViT that is known here"
        )
    unused = {
        name: torch.empty(shape, device="meta")
        for name, shape in expected_shapes(backbone, counters=False).items()
        if name.startswith(UNUSED)
    }
    check_complete({**unused, **trunk}, backbone, source)
    warnings = check_values(tensors, source)
    preprocess, architecture = model.preprocess, dict(model.architecture)
    if preprocess is None:
        said = unsaid(file)
        preprocess, architecture = said.preprocess, {"stride_in_1x1": said.stride_in_1x1}
    facts = make_provenance(
        name=source_stem(source), source=DETECTOR, file_sha256=file_sha256(file)
    )
    weights = Weights(trunk, backbone, preprocess, facts, None, warnings, architecture)
    return weights, tensors, model


def _canonical(name: str) -> str | None:
    """`roi_heads.res5.0.conv1.weight` -> `layer4.0.conv1.weight`; None outside the trunk.

    A detector's relative positions are none of the trunk's.
    """
    if name.startswith(VITDET):
        return None if ".rel_pos_" in name else from_vitdet(name)
    prefix = next((prefix for prefix in TRUNKS if name.startswith(prefix)), None)
    return None if prefix is None else from_detectron2(name[len(prefix) :])


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
