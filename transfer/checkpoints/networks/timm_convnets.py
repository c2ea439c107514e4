"""timm's ConvNets that are read by their name: ResNet variants, ResNeXt, RegNet, EfficientNet.

The tensors of such a file do not say what it computes: `resnet50` and `resnetblur50`, or
`efficientnet_lite0` and `tf_efficientnet_lite0` (padding, epsilon), have equal names and shapes. So
it is read if its name is known: from `timm:NAME`, from the `config.json` of timm's hub, from facts
that travel with a file, from a checkpoint of this project, or from a detection config.
Canonical names are timm's own, and the network is timm's class.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from pretrain.backbones.build import build_backbone
from pretrain.backbones.resnet import BACKBONES
from transfer.checkpoints.networks.convnext import parse_convnext
from transfer.checkpoints.networks.vit_architectures import parse_vit

FAMILIES = ("resnet", "convnext", "regnet", "efficientnet")  # modules of timm.models
Shapes = dict[str, tuple[int, ...]]


def is_timm_convnet(name: str) -> bool:
    """Returns whether timm has this name in one of the `FAMILIES`, and no other table has it."""
    if name in BACKBONES or parse_vit(name) is not None or parse_convnext(name) is not None:
        return False
    return in_families(name)


@lru_cache
def in_families(name: str) -> bool:
    """Returns whether timm has a model of this name in one of the `FAMILIES`."""
    import timm  # seconds to import, and needed for its models only

    if not timm.is_model(name):
        return False
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2] in FAMILIES


@lru_cache
def timm_convnet_shapes(name: str) -> Shapes:
    """Returns the shapes of its tensors by timm's names, without the classifier's."""
    with torch.device("meta"):
        state = build_timm_convnet(name).state_dict()
    return {key: tuple(value.shape) for key, value in state.items()}


def build_timm_convnet(name: str) -> nn.Module:
    """Returns timm's untrained network without classifier, with our attribute `out_dim`."""
    return build_backbone(name)
