"""Canonical (torchvision) names <-> the names that each output layout uses.

Detectron2's names are those its ResNet has below `backbone.` or `backbone.bottom_up.`; it adds
that prefix itself by suffix matching. Source of the table: MoCo's
detection/convert-pretrain-to-detectron2.py and Detectron2's modeling/backbone/resnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from pretrain.common.lookup import find

STEM = {"conv1": "stem.conv1", "bn1": "stem.conv1.norm"}
BLOCK = {
    "conv1": "conv1",
    "bn1": "conv1.norm",
    "conv2": "conv2",
    "bn2": "conv2.norm",
    "conv3": "conv3",
    "bn3": "conv3.norm",
    "downsample.0": "shortcut",
    "downsample.1": "shortcut.norm",
}
_STEM_BACK = {theirs: ours for ours, theirs in STEM.items()}
_BLOCK_BACK = {theirs: ours for ours, theirs in BLOCK.items()}


def to_detectron2(name: str) -> str | None:
    """`layer1.0.bn2.bias` -> `res2.0.conv2.norm.bias`; None for a name outside the table."""
    module, _, leaf = name.rpartition(".")
    if module in STEM:
        return f"{STEM[module]}.{leaf}"
    match = re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", module)
    if not match or match[3] not in BLOCK:
        return None
    return f"res{int(match[1]) + 1}.{match[2]}.{BLOCK[match[3]]}.{leaf}"


def from_detectron2(name: str) -> str | None:
    """The inverse of `to_detectron2`; None for a name outside the table."""
    module, _, leaf = name.rpartition(".")
    if module in _STEM_BACK:
        return f"{_STEM_BACK[module]}.{leaf}"
    match = re.fullmatch(r"res([2-5])\.(\d+)\.(.+)", module)
    if not match or match[3] not in _BLOCK_BACK:
        return None
    return f"layer{int(match[1]) - 1}.{match[2]}.{_BLOCK_BACK[match[3]]}.{leaf}"


def _same(name: str) -> str | None:
    return name


# layout -> (canonical name -> its name, its name -> canonical name)
NAMES: dict[str, tuple[Callable[[str], str | None], Callable[[str], str | None]]] = {
    "torchvision": (_same, _same),
    "detectron2": (to_detectron2, from_detectron2),
}


def to_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Renames canonical tensors for a layout of `NAMES`; the tensors are shared, not copied."""
    rename = find(layout, NAMES, "layout")[0]
    renamed = {rename(name): tensor for name, tensor in state.items()}
    assert None not in renamed and len(renamed) == len(state), "a name is outside the table"
    return renamed
