"""ConvNets that look like a known one and compute otherwise: names in, a refusal out.

Each is known by names that it alone has. They are refused by what they are, since a message about
single keys would send a user the wrong way.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from pretrain.common.errors import InputError

_HEAD = r"(.*\.)?"
# Patterns of which each matches a name in full, what the network is, why it is not read.
REFUSED_CONVNETS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        (r"attnpool\.(positional_embedding|[kqvc]_proj\.(weight|bias))",),
        "CLIP's ResNet",
        "it has a stem of three convolutions, average pooling instead of strides, and attention "
        "pooling, which no ResNet here computes",
    ),
    (
        (r"stem\.conv1\.conv\.weight", r"stages\.0\.0\.conv\d_\w+\.conv\.weight"),
        "a network of timm's byobnet (resnet50_clip, gcresnet50t and the like)",
        "its stem of several convolutions and its pooling are not computed here",
    ),
    (
        (r"visual\.trunk\..*",),
        "an OpenCLIP model with an image tower of timm",
        "towers are not read from it; save model.visual.trunk.state_dict() alone",
    ),
    (
        (r"norm_pre\.weight", r"stages\.0\.blocks\.0\.conv_dw\.weight"),
        "a ConvNeXt with its last norm before pooling (timm's convnext_tiny_hnf)",
        "after pooling is computed here",
    ),
    (
        (r"stages\.\d\.blocks\.\d+\.xca\..*",),
        "an EdgeNeXt",
        "its attention over channels is not computed here",
    ),
    (
        (r"stages\.0\.blocks\.0\.conv2\.weight", r"stages\.0\.blocks\.0\.norm1\.weight"),
        "a ResNet that normalises before its convolutions (timm's resnetv2, BiT)",
        "after them is computed here",
    ),
    (
        (r"layer\d\.\d+\.(se|se_module|attn)\..*",),
        "a ResNet with squeeze and excitation or another attention in its blocks",
        "that is not computed here",
    ),
    (
        (r"layer\d\.\d+\.conv2\.(fc1|paths|conv|radix)\..*",),
        "a ResNeSt or a selective-kernel ResNet",
        "its split convolutions are not computed here",
    ),
    (
        (r"conv1\.0\.weight",),
        "a ResNet with a deep stem of three convolutions (timm's resnet50c, resnet50d)",
        "a stem of one is computed here",
    ),
    (
        (r"layer\d\.0\.downsample\.2\.(weight|running_mean)",),
        "a ResNet-D, whose shortcuts pool first",
        "that is not computed here",
    ),
    (
        (r"(blocks\.0\.0\.conv_(dw|pwl?)|features\.\d\.0\.block\.0\.0)\.weight",),
        "an EfficientNet or a MobileNet",
        "only ResNets, ConvNeXts and ViTs are read",
    ),
    (
        (r"s1\.b1\.conv1\.conv\.weight|trunk_output\.block1\..*",),
        "a RegNet",
        "only ResNets, ConvNeXts and ViTs are read",
    ),
    (
        (r"features\.denseblock1\..*",),
        "a DenseNet",
        "only ResNets, ConvNeXts and ViTs are read",
    ),
)


def refuse_convnets(names: Collection[str]) -> None:
    """Raises InputError if the names are those of a network of REFUSED_CONVNETS."""
    for patterns, what, why in REFUSED_CONVNETS:
        found = [_first(pattern, names) for pattern in patterns]
        if all(found):
            raise InputError(f"in none of the known formats: it is {what} ({found[0]}): {why}")


def _first(pattern: str, names: Collection[str]) -> str | None:
    fits = re.compile(_HEAD + f"({pattern})")
    return next((name for name in names if fits.fullmatch(name)), None)
