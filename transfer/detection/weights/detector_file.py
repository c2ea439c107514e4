"""A complete detector in a file, with what the file and the `config.yaml` next to it say about it.

The file is `model_final.pth` or a periodic checkpoint of either engine, or a `.pkl` of Detectron2's
model zoo. It is read as `DetectorWeights`, or as the canonical weights of its backbone alone. Two
detectors may share a backbone, so the identity of a detector is the sha256 of all its tensors.

Tensors do not show how a model's pixels are normalised, where its bottlenecks stride, and what its
classes are called. Files of this project say so themselves. Detectron2 writes a `config.yaml` into
the same folder, which is read as data: nothing in it is executed, and a key that has no part in
these questions is ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from pretrain.common.config import has_section, load_keys
from pretrain.common.errors import InputError
from pretrain.common.findings import warn_once
from pretrain.common.run_files import CONFIG
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.files import source_stem
from transfer.checkpoints.names.layouts import from_detectron2
from transfer.checkpoints.names.vit import UNUSED, VITDET, from_vitdet
from transfer.checkpoints.networks.architectures import (
    expected_shapes,
    nearest_backbone,
)
from transfer.checkpoints.odd_values import check_values
from transfer.checkpoints.opened import OpenedWeights
from transfer.checkpoints.unmatched_keys import check_complete
from transfer.checkpoints.weights import Weights, make_provenance, tensors_sha256
from transfer.detection.config import all_defaults, preprocess_of
from transfer.detection.config_checks import value_of
from transfer.detection.torchvision_engine.architectures import is_timm
from transfer.detection.torchvision_engine.timm_convnet import NETWORK, layout_of
from transfer.training.files import ModelFile, read_model

logger = logging.getLogger(__name__)

# Kinds of files: a detector that is built here, another model of Detectron2, and every file without
# their heads.
DETECTOR, OTHER_MODEL, BACKBONE = "detector", "other model", "backbone"
# What every GeneralizedRCNN has, both of them, and every RetinaNet.
HEADS = ("proposal_generator.", "roi_heads.")
DENSE_HEADS = ("head.cls_score.", "head.bbox_pred.")
# Prefixes of a backbone's tensors in a detector: FPN's, C4's, and those of C4's last stage.
IN_DETECTOR = ("backbone.bottom_up.", "backbone.", "roi_heads.")
# Old models also saved these; here they follow from the config.
DERIVED = (
    *("pixel_mean", "pixel_std"),
    *("proposal_generator.anchor_generator.", "anchor_generator."),
)
SHOWN = 10  # class names that a message lists

# Keys of the config next to a file: those that decide how its network's input is computed,
INPUT = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.RESNETS.STRIDE_IN_1X1",
)
CLASSES = "TRANSFER.CLASSES"
# and those that change what the same tensors predict, of which the config in use decides.
COMPARED = (
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.RETINANET.IN_FEATURES",
    "MODEL.RETINANET.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE",
    "MODEL.RESNETS.RES5_DILATION",
)


@dataclass(frozen=True)
class DetectorWeights(Weights):
    """Holds the backbone's weights as `Weights` has them, and those of the detector around it.

    Attributes:
        detector: all of the file's tensors, under Detectron2's names.
        fitting: those that the detector which is built starts from; see `matched_parts`.
        classes: names of the predictors' classes, in their order; None if they are not known.
    """

    detector: Mapping[str, Tensor] = field(default_factory=dict)
    fitting: Mapping[str, Tensor] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None

    @cached_property
    def sha256(self) -> str:
        """Returns the identity of all tensors without batch norm's counters."""
        return tensors_sha256(self.detector)


def kind_of(source: OpenedWeights) -> str:
    """Returns DETECTOR, OTHER_MODEL or BACKBONE, by the names of the tensors.

    Raises:
        InputError: the file is unreadable.
    """
    model = source.raw.content.get("model")
    names = [str(name) for name in model] if isinstance(model, Mapping) else []
    for heads in (HEADS, DENSE_HEADS):
        if all(any(name.startswith(head) for name in names) for head in heads):
            return DETECTOR
    # The converter writes a ViT alone under ViTDet's names too: they do not show which it is.
    others = (name for name in names if not name.startswith(VITDET))
    if any(name.startswith("backbone.") and _canonical(name) for name in others):
        return OTHER_MODEL
    return BACKBONE


def architecture_of(names: Iterable[str]) -> str:
    """Returns "FPN", "C4", "C5", "TINY" or "VIT", as `architectures.architecture`."""
    prefixes = {".".join(name.split(".")[:2]) for name in names}
    if VITDET.rstrip(".") in prefixes:
        return "VIT"
    if "backbone.bottom_up" in prefixes:
        return "FPN"
    if "roi_heads.res5" in prefixes:
        return "C4"
    return "C5" if "backbone.res5" in prefixes else "TINY"


def read_detector(source: OpenedWeights, cfg: CfgNode) -> DetectorWeights:
    """Reads the detector in a file; `fitting` is left empty.

    Args:
        cfg: says what neither the file nor the config next to it says of the input.

    Raises:
        InputError: the file is unreadable, is not a detector, or its backbone is not a whole ResNet
            or ViT.
    """
    model = read_model(source)
    tensors = _tensors(model)
    weights = _backbone(source, model, tensors, cfg)
    classes = named_classes(model, source.file)
    return DetectorWeights(**vars(weights), detector=tensors, classes=classes)


def read_detector_backbone(source: OpenedWeights, cfg: CfgNode) -> Weights:
    """Reads the backbone alone of any model of Detectron2; see `read_detector`."""
    model = read_model(source, "backbone.")
    return _backbone(source, model, _tensors(model), cfg)


def _tensors(model: ModelFile) -> dict[str, Tensor]:
    return {name: _float32(v) for name, v in model.state.items() if not name.startswith(DERIVED)}


def _backbone(
    source: OpenedWeights, model: ModelFile, tensors: Mapping[str, Tensor], cfg: CfgNode
) -> Weights:
    """Returns the backbone among a model's tensors, complete; the values of all tensors are
    checked.
    """
    state, backbone, left_out = _named(source, tensors, cfg)
    unused = {
        name: torch.empty(shape, device="meta")
        for name, shape in expected_shapes(backbone, counters=False).items()
        if name.startswith(left_out)
    }
    check_complete({**unused, **state}, backbone, str(source))
    warnings = check_values(tensors, str(source))
    stated = stated_input(model, source.file, cfg)
    provenance = make_provenance(
        name=source_stem(source.source), source=DETECTOR, file_sha256=source.raw.sha256
    )
    return Weights(
        state, backbone, stated.preprocess, provenance, None, warnings, stated.architecture
    )


def _named(
    source: OpenedWeights, tensors: Mapping[str, Tensor], cfg: CfgNode
) -> tuple[dict[str, Tensor], str, tuple[str, ...]]:
    """Returns the backbone's tensors under their canonical names, which backbone it is, and what
    the names of those begin with that a detector leaves out.

    A network of timm's is the one that the config names.
    """
    start = len(NETWORK)
    of_timm = {name[start:]: v for name, v in tensors.items() if name.startswith(NETWORK)}
    if is_timm(cfg) and of_timm:
        backbone = cfg.MODEL.BACKBONE.NAME
        return of_timm, backbone, tuple(f"{part}." for part in layout_of(backbone).after)
    state = {own: v for name, v in tensors.items() if (own := _canonical(name)) is not None}
    backbone, likeness = nearest_backbone(state)
    if likeness < 0.5:
        what = "neither a known ResNet nor a known ViT"
        if of_timm:
            what = "a network of timm: set MODEL.BACKBONE.NAME to its name"
        raise InputError(f"{source}: the backbone of this detector is {what}")
    return state, backbone, UNUSED


def _canonical(name: str) -> str | None:
    """Returns `layer4.0.conv1.weight` for `roi_heads.res5.0.conv1.weight`; None for other parts.

    Relative positions are a detector's own: a ViT does not have them before.
    """
    if name.startswith(VITDET):
        return None if ".rel_pos_" in name else from_vitdet(name)
    prefix = next((prefix for prefix in IN_DETECTOR if name.startswith(prefix)), None)
    return None if prefix is None else from_detectron2(name[len(prefix) :])


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


@dataclass(frozen=True)
class StatedInput:
    """Holds what decides a model's numbers next to its tensors; `architecture` is that of
    `Weights`.
    """

    preprocess: Preprocess
    architecture: dict[str, Any]


def stated_input(model: ModelFile, model_file: Path, cfg: CfgNode) -> StatedInput:
    """Returns what the model's file says of its input, or the config next to it, or the config in
    use.

    Warns, once in a process, if the config in use decides.
    """
    if model.preprocess is not None:
        return StatedInput(model.preprocess, dict(model.architecture))
    path = model_file.parent / CONFIG
    stated = _read_config(path)
    if stated is None:
        stated = cfg
        warn_once(
            f"{model_file} does not say how its input was normalised, nor does a {CONFIG} "
            f"next to it: {', '.join(f'{key} {value_of(cfg, key)}' for key in INPUT)} of the "
            "config in use are taken"
        )
    else:
        logger.info("%s: %s are those of %s", model_file, ", ".join(INPUT), path)
    return StatedInput(preprocess_of(stated), {"stride_in_1x1": stated.MODEL.RESNETS.STRIDE_IN_1X1})


def named_classes(model: ModelFile, model_file: Path) -> tuple[str, ...] | None:
    """Returns the names of a model's classes, in its order: those in the file, or TRANSFER.CLASSES
    of the config next to it; None if neither names them.
    """
    if model.classes is not None:
        return model.classes
    stated = _read_config(model_file.parent / CONFIG)
    return (tuple(stated.TRANSFER.CLASSES) or None) if stated is not None else None


def shown_classes(names: Sequence[str]) -> str:
    """Returns the names for a message, only the first ones if there are many."""
    listed = ", ".join(names[:SHOWN])
    return f"{listed}, ... ({len(names)} in all)" if len(names) > SHOWN else listed


def warn_of_unnamed(model: str, classes: Sequence[str]) -> None:
    """Warns, once in a process, that a model's classes are taken to be these, in this order."""
    warn_once(
        f"{model} does not name its classes; they are assumed to be those of the data, in this "
        f"order: {shown_classes(classes)}"
    )


def compare_beside(model_file: Path, cfg: CfgNode) -> None:
    """Warns, once in a process, of keys that change what the model predicts and that have another
    value in the config next to the file, if there is one, than in the config in use."""
    path = model_file.parent / CONFIG
    stated = _read_config(path)
    if stated is None:
        return
    odd = [
        f"{key} {value_of(stated, key)} (in use: {value_of(cfg, key)})"
        for key in COMPARED
        if _as_lists(value_of(stated, key)) != _as_lists(value_of(cfg, key))
    ]
    if odd:
        warn_once(
            f"{path} differs from the config in use, whose values are taken: {', '.join(odd)}"
        )


def _as_lists(value: object) -> object:
    """Returns the value with lists for tuples at every depth, so that one compares equal to the
    other.
    """
    return [_as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def _read_config(path: Path) -> CfgNode | None:
    """Returns the keys of INPUT, COMPARED and CLASSES; None if the file is not a config of
    Detectron2.
    """
    if not path.is_file():
        return None
    try:
        if not has_section(path, "MODEL"):
            # A different program wrote it; Detectron2's "lazy" configs have a section `model`.
            return None
        return load_keys(path, all_defaults(), (*INPUT, *COMPARED, CLASSES))
    except InputError as error:
        warn_once(f"{error}; this file is ignored")
        return None
