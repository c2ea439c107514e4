"""The parts of a detector, and which of them another detector's file can start.

A part is loaded whole or not at all: half of a head is worse than a new one. A part that is not
loaded starts at its initialisation, and says why. Names of tensors are Detectron2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.common.findings import warn_once
from transfer.checkpoints.weights import COUNTER
from transfer.detection.weights.detector_file import DERIVED, shown_classes, warn_of_unnamed

BACKBONE_PART = "backbone"
# The parts by prefix, in the order of a forward pass, the longer prefix first. res5 of a C4
# detector is the last stage of its ResNet.
PREFIXES = {
    "backbone.fpn_": "FPN",
    "backbone.top_block.": "FPN",
    "backbone.simfp_": "simple feature pyramid",
    "backbone.": BACKBONE_PART,
    "proposal_generator.": "RPN",
    "roi_heads.res5.norm.": "extra norm",
    "roi_heads.res5.": BACKBONE_PART,
    "roi_heads.box_head.": "box head",
    "roi_heads.box_predictor.": "box predictor",
    "roi_heads.mask_head.predictor.": "mask predictor",
    "roi_heads.mask_head.": "mask head",
    "roi_heads.keypoint_head.": "keypoint head",
    "head.cls_score.": "class predictor",
    "head.": "dense head",
}
PREDICTORS = (
    "box predictor",
    "mask predictor",
    "class predictor",
)  # their width is the number of classes
# Not every detector has them.
OPTIONAL = ("extra norm", "mask head", "mask predictor", "keypoint head")

Shapes = Mapping[str, "tuple[int, ...]"]


@dataclass(frozen=True)
class Part:
    """Says what happens to one part.

    Attributes:
        names: its tensors in the detector that is built; none if the detector does not have it.
        reason: why it is not loaded; "" if it is.
        expected: whether the reason is one that users know of.
    """

    name: str
    names: tuple[str, ...]
    reason: str
    expected: bool = True

    @property
    def loaded(self) -> bool:
        """Returns whether the file's tensors are taken."""
        return bool(self.names) and not self.reason

    def line(self) -> str:
        """Returns what became of it, for the log."""
        if not self.names:
            return f"{self.name}: left out, {self.reason}"
        count = f"{self.name}: {len(self.names)} tensors"
        if self.loaded:
            return f"{count} loaded"
        expected = ", as expected" if self.expected else ""
        return f"{count} start at their initialisation{expected}: {self.reason}"


def part_of(name: str) -> str:
    """Returns the part that a tensor belongs to; the name of its module if that is not one of
    ours.
    """
    for prefix, part in PREFIXES.items():
        if name.startswith(prefix):
            return part
    return name.partition(".")[0]


def match_parts(own: Shapes, file: Mapping[str, Tensor], other_classes: str = "") -> list[Part]:
    """Returns what the file can start, by part; parts that are not ours come last.

    Args:
        own: shapes in the detector that is built; file: the tensors in the file.
        other_classes: why the file's predictors, of as many classes, are not taken; "": they are.
    """
    theirs = {name: tuple(value.shape) for name, value in file.items() if _counts(name)}
    ours = {name: tuple(shape) for name, shape in own.items() if _counts(name)}
    present = dict.fromkeys(part_of(name) for name in (*ours, *theirs))
    known = [part for part in dict.fromkeys(PREFIXES.values()) if part in present]
    order = dict.fromkeys((*known, *present))
    return [_match(part, _of(part, ours), _of(part, theirs), other_classes) for part in order]


def in_class_order(
    tensors: Mapping[str, Tensor],
    source: str,
    theirs: Sequence[str] | None,
    ours: Sequence[str] | None,
) -> tuple[Mapping[str, Tensor], str]:
    """Returns a detector's tensors with the predictors' rows in the order of the data's classes,
    and why the predictors cannot be taken ("": they can).

    Args:
        source: how messages name the file.
        theirs: names of the file's classes in the order of the rows; None: they are not known.
        ours: names of the data's classes in their order; None: they are not compared.
    """
    if ours is None or theirs == tuple(ours):
        return tensors, ""
    if theirs is None:
        warn_of_unnamed(source, ours)
        return tensors, ""
    if set(theirs) != set(ours):
        return (
            tensors,
            f"its classes are {shown_classes(theirs)}, those of the data {shown_classes(ours)}",
        )
    warn_once(
        f"{source}: its classes are in a different order ({shown_classes(theirs)}) than the data's "
        f"({shown_classes(ours)}); the predictors are mapped by name"
    )
    return reordered(tensors, theirs, ours), ""


def reordered(
    tensors: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str]
) -> dict[str, Tensor]:
    """Returns a detector's tensors with the rows of its predictors in the order of `ours`.

    Args:
        theirs: names of the classes in the order of the rows. ours: the same names in the order
            that is wanted.
    """
    rows = torch.tensor([list(theirs).index(name) for name in ours])
    count, moved = len(rows), dict(tensors)
    for name, value in tensors.items():
        if part_of(name) not in PREDICTORS:
            continue
        if part_of(name) == "class predictor":
            if len(value) % count == 0:  # a row for each class of each anchor of a place
                moved[name] = value.unflatten(0, (-1, count))[:, rows].flatten(0, 1)
        elif "cls_score." in name and len(value) == count + 1:  # the background comes last
            moved[name] = value[torch.cat([rows, torch.tensor([count])])]
        elif "bbox_pred." in name and len(value) == 4 * count:
            moved[name] = value.unflatten(0, (count, 4))[rows].flatten(0, 1)
        elif "mask_head." in name and len(value) == count:
            moved[name] = value[rows]
    return moved


def _match(part: str, ours: Shapes, theirs: Shapes, other_classes: str) -> Part:
    names = tuple(ours)
    if not ours:
        return Part(part, names, "the config has none")
    if not theirs:
        return Part(part, names, "the file has none", part in OPTIONAL)
    if part in PREDICTORS and (classes := _classes(theirs)) != (here := _classes(ours)):
        return Part(part, names, f"{classes} classes in the file, {here} here")
    if part in PREDICTORS and other_classes:
        return Part(part, names, other_classes)
    odd = sorted(ours.keys() ^ theirs.keys())
    if odd:
        side = "file has no" if odd[0] in ours else "config has no"
        return Part(part, names, f"the {side} {odd[0]}", expected=False)
    for name, shape in ours.items():
        if theirs[name] != shape:
            reason = f"{name} is {theirs[name]} in the file, {shape} here"
            return Part(part, names, reason, expected=False)
    return Part(part, names, "")


def _classes(shapes: Shapes) -> int | None:
    """Returns foreground classes of a predictor; None for a predictor that is not known here."""
    for name, shape in shapes.items():
        if name.endswith("cls_score.weight"):
            return shape[0] - 1  # the background is a class of its own
        if name.endswith("mask_head.predictor.weight"):
            return shape[0]
    return None


def _of(part: str, shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in shapes.items() if part_of(name) == part}


def _counts(name: str) -> bool:
    return not name.endswith(COUNTER) and not name.startswith(DERIVED)
