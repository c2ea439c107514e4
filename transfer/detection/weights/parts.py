"""The parts of a detector, and which of them another detector's file can start.

In: names and shapes of the detector that is built, and a file's tensors under the same names
(Detectron2's). Out: per part, what is loaded, or why it starts anew. A part is loaded whole or not
at all: half of a head is worse than a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

COUNTER = "num_batches_tracked"
# What old models also saved; here it follows from the config.
DERIVED = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
BACKBONE = "backbone"
# In the order of a forward pass, the longer prefix first; res5 of a C4 detector is the last stage
# of its ResNet.
PREFIXES = {
    "backbone.fpn_": "FPN",
    "backbone.simfp_": "simple feature pyramid",
    "backbone.": BACKBONE,
    "proposal_generator.": "RPN",
    "roi_heads.res5.norm.": "extra norm",
    "roi_heads.res5.": BACKBONE,
    "roi_heads.box_head.": "box head",
    "roi_heads.box_predictor.": "box predictor",
    "roi_heads.mask_head.predictor.": "mask predictor",
    "roi_heads.mask_head.": "mask head",
}
PREDICTORS = ("box predictor", "mask predictor")  # their width is the number of classes
OPTIONAL = ("extra norm", "mask head", "mask predictor")  # not every detector has them

Shapes = Mapping[str, "tuple[int, ...]"]


@dataclass(frozen=True)
class Part:
    """Attributes: names: its tensors in the detector that is built; reason: "" if loaded."""

    name: str
    names: tuple[str, ...]
    reason: str
    expected: bool = True

    @property
    def loaded(self) -> bool:
        """Whether the file's tensors are taken."""
        return bool(self.names) and not self.reason

    def line(self) -> str:
        """What became of it, for the log."""
        if not self.names:
            return f"{self.name}: left out, {self.reason}"
        count = f"{self.name}: {len(self.names)} tensors"
        if self.loaded:
            return f"{count} loaded"
        return f"{count} start anew{', as expected' if self.expected else ''}: {self.reason}"


def part_of(name: str) -> str:
    """The part that a tensor belongs to; its module's name where it is none of ours."""
    for prefix, part in PREFIXES.items():
        if name.startswith(prefix):
            return part
    return name.partition(".")[0]


def match_parts(own: Shapes, file: Mapping[str, Tensor], other_classes: str = "") -> list[Part]:
    """What the file can start, by part; last come parts that are none of ours.

    Args:
        other_classes: why the file's predictors, of as many classes, are not taken; "": they are.
    """
    theirs = {name: tuple(value.shape) for name, value in file.items() if _counts(name)}
    ours = {name: tuple(shape) for name, shape in own.items() if _counts(name)}
    present = dict.fromkeys(part_of(name) for name in (*ours, *theirs))
    known = [part for part in dict.fromkeys(PREFIXES.values()) if part in present]
    order = dict.fromkeys((*known, *present))
    return [_match(part, _of(part, ours), _of(part, theirs), other_classes) for part in order]


def in_order(
    tensors: Mapping[str, Tensor], theirs: Sequence[str], ours: Sequence[str]
) -> dict[str, Tensor]:
    """A detector's tensors with its predictors' rows in another order of the same classes.

    Args:
        theirs: names of the classes in the order of the rows; ours: in the order that is wanted.
    """
    rows = torch.tensor([list(theirs).index(name) for name in ours])
    count, moved = len(rows), dict(tensors)
    for name, value in tensors.items():
        if part_of(name) not in PREDICTORS:
            continue
        if "cls_score." in name and len(value) == count + 1:  # the background comes last
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
    """Foreground classes of a predictor; None where it is none that is known here."""
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
