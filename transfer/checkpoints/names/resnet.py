"""Names of a ResNet's tensors: torchvision's (canonical), and those of other PyTorch layouts.

Detectron2's names are those that its ResNet has below `backbone.` or `backbone.bottom_up.`; it adds
that prefix itself by suffix matching. Source of the table: MoCo's
detection/convert-pretrain-to-detectron2.py and Detectron2's modeling/backbone/resnet.py.
Hugging Face's are those of transformers' modeling_resnet.py, equal in versions 4 and 5.
Numeric names are of `nn.Sequential(*list(resnet.children())[:-1])`, as in lightly's examples.
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
    """Returns `res2.0.conv2.norm.bias` for `layer1.0.bn2.bias`; None outside the table."""
    module, _, leaf = name.rpartition(".")
    if module in STEM:
        return f"{STEM[module]}.{leaf}"
    match = re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", module)
    if not match or match[3] not in BLOCK:
        return None
    return f"res{int(match[1]) + 1}.{match[2]}.{BLOCK[match[3]]}.{leaf}"


def from_detectron2(name: str) -> str | None:
    """Inverts `to_detectron2`; returns None for a name outside the table."""
    module, _, leaf = name.rpartition(".")
    if module in _STEM_BACK:
        return f"{_STEM_BACK[module]}.{leaf}"
    match = re.fullmatch(r"res([2-5])\.(\d+)\.(.+)", module)
    if not match or match[3] not in _BLOCK_BACK:
        return None
    return f"layer{int(match[1]) - 1}.{match[2]}.{_BLOCK_BACK[match[3]]}.{leaf}"


_HF_LEAVES = {"convolution": "conv", "normalization": "bn"}
_HF_STEM = {"conv1": "convolution", "bn1": "normalization"}
_HF_SHORTCUT = {"0": "convolution", "1": "normalization"}


def to_hf(name: str) -> str | None:
    """Returns `encoder.stages.0.layers.0.layer.1.normalization.bias` for `layer1.0.bn2.bias`."""
    module, _, leaf = name.rpartition(".")
    if module in _HF_STEM:
        return f"embedder.embedder.{_HF_STEM[module]}.{leaf}"
    match = re.fullmatch(r"layer([1-4])\.(\d+)\.(?:(conv|bn)([123])|downsample\.([01]))", module)
    if not match:
        return None
    block = f"encoder.stages.{int(match[1]) - 1}.layers.{match[2]}"
    if match[5]:
        return f"{block}.shortcut.{_HF_SHORTCUT[match[5]]}.{leaf}"
    kind = "convolution" if match[3] == "conv" else "normalization"
    return f"{block}.layer.{int(match[4]) - 1}.{kind}.{leaf}"


def from_hf(name: str) -> str | None:
    """Inverts `to_hf`; returns None for a name outside the table."""
    kinds = "(convolution|normalization)"
    match = re.fullmatch(rf"embedder\.embedder\.{kinds}\.(\w+)", name)
    if match:
        return f"{_HF_LEAVES[match[1]]}1.{match[2]}"
    head = r"encoder\.stages\.([0-3])\.layers\.(\d+)"
    match = re.fullmatch(rf"{head}\.(?:layer\.([012])|shortcut)\.{kinds}\.(\w+)", name)
    if not match:
        return None
    block = f"layer{int(match[1]) + 1}.{match[2]}"
    if match[3] is None:
        return f"{block}.downsample.{0 if match[4] == 'convolution' else 1}.{match[5]}"
    return f"{block}.{_HF_LEAVES[match[4]]}{int(match[3]) + 1}.{match[5]}"


def same(name: str) -> str | None:
    """Returns the name itself."""
    return name


_NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_NUMBERS_BACK = {number: name for name, number in _NUMBERS.items()}


def to_numeric(name: str) -> str | None:
    """Returns `4.0.bn2.bias` for `layer1.0.bn2.bias`; None for a name outside the table."""
    return _replace_head(name, _NUMBERS)


def from_numeric(name: str) -> str | None:
    """Inverts `to_numeric`; returns None for a name outside the table."""
    return _replace_head(name, _NUMBERS_BACK)


def _replace_head(name: str, table: dict[str, str]) -> str | None:
    head, dot, rest = name.partition(".")
    return f"{table[head]}.{rest}" if head in table and dot else None
