"""Names of a ResNet's tensors: torchvision's (canonical) <-> those of other PyTorch layouts.

Detectron2's names are those its ResNet has below `backbone.` or `backbone.bottom_up.`; it adds
that prefix itself by suffix matching. Source of the table: MoCo's
detection/convert-pretrain-to-detectron2.py and Detectron2's modeling/backbone/resnet.py.
Numeric names are those of `nn.Sequential(*list(resnet.children())[:-1])`, as in lightly's examples.
"""

from __future__ import annotations

import re

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


def same(name: str) -> str | None:
    """The name itself."""
    return name


_NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_NUMBERS_BACK = {number: name for name, number in _NUMBERS.items()}


def to_numeric(name: str) -> str | None:
    """`layer1.0.bn2.bias` -> `4.0.bn2.bias`; None for a name outside the table."""
    return _replace_head(name, _NUMBERS)


def from_numeric(name: str) -> str | None:
    """The inverse of `to_numeric`; None for a name outside the table."""
    return _replace_head(name, _NUMBERS_BACK)


def _replace_head(name: str, table: dict[str, str]) -> str | None:
    head, dot, rest = name.partition(".")
    return f"{table[head]}.{rest}" if head in table and dot else None
