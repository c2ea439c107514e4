"""Optimizers of fine-tuning, and the parameter groups that share weight decay and learning rate.

The groups are as in Detectron2 (solver/build.py); the rates of a ViT's layers are as in ViTDet.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from pretrain.common.errors import InputError

OPTIMIZERS = ("SGD", "AdamW")
TOKENS = ("pos_embed", "cls_token", "reg_token")  # timm's names of a ViT's
DETECTORS_NETWORK = r"bottom_up\.network\."  # between `backbone.` and timm's name in a detector
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)


def param_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    weight_decay_norm: float,
    weight_decay_bias: float | None = None,
    base_lr: float,
    bias_lr_factor: float = 1.0,
    weight_decay_pos_embed: float | None = None,
    layer_factor: Callable[[str], float] = lambda name: 1.0,
    flat_as_norms: tuple[str, ...] = (),
) -> list[dict[str, Any]]:
    """Returns trainable parameters in groups of equal weight decay and rate, in the model's order.

    With `weight_decay_bias` None, biases have no special decay; in norm layers they count as norms.
    `weight_decay_pos_embed` applies to positions and tokens, TOKENS (None: no special decay).
    `layer_factor` maps a parameter's full name to the factor on its rate. Parameters of one
    dimension whose names begin with one of `flat_as_norms` count as norms (layer scales and
    response norms of a ConvNeXt).
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decay, rate = weight_decay, base_lr * layer_factor(f"{path}.{name}")
            flat = parameter.dim() <= 1 and path.startswith(flat_as_norms)
            if isinstance(module, NORMS) or flat:
                decay = weight_decay_norm
            if name == "bias":
                decay = decay if weight_decay_bias is None else weight_decay_bias
                rate = rate * bias_lr_factor
            if name in TOKENS and weight_decay_pos_embed is not None:
                decay = weight_decay_pos_embed
            group = groups.setdefault(
                (decay, rate), {"params": [], "weight_decay": decay, "lr": rate}
            )
            group["params"].append(parameter)
    return list(groups.values())


def vit_layer_factor(name: str, *, decay: float, depth: int) -> float:
    """Returns ViTDet's factor on a parameter's learning rate: `decay` per layer below the heads.

    Block k of `depth` is k + 1 layers above the patches and positions; the pyramid and everything
    outside the backbone are above the last block. The same as Detectron2's get_vit_lr_decay_rate.
    """
    layer = depth + 1
    block = re.match(r"backbone\..*\bblocks\.(\d+)\.", name)
    if block:
        layer = int(block[1]) + 1
    elif re.match(rf"backbone\..*\b({'|'.join(TOKENS)}|patch_embed)\b", name):
        layer = 0
    return decay ** (depth + 1 - layer)


def convnext_layer_factor(name: str, *, decay: float, blocks: int) -> float:
    """Returns what ConvNeXt's authors multiply a parameter's rate by in a detector: `decay` per
    group below the heads, counted from the stem.

    The groups are the stem, the first stage, the second, every three blocks of the third, and the
    last; a downsampling layer goes with the stage behind it, but that of the third is with its
    first blocks, and that of the last with the last. All else, the norms of the maps too, is above.
    As facebookresearch/ConvNeXt object_detection/mmcv_custom/layer_decay_optimizer_constructor.py.

    Args:
        name: timm's behind `backbone.bottom_up.network.`, or `backbone.` in a segmenter.
        blocks: number of blocks of the third stage: 9 make 6 groups, 27 make 12.
    """
    last = 3 + -(-blocks // 3)
    group = last + 1
    timms = r"(?:(stem)|stages\.(\d)\.(\w+)\.(\d+))\."
    place = re.match(rf"backbone\.(?:{DETECTORS_NETWORK})?{timms}", name)
    if place and place[1]:
        group = 0
    elif place:
        stage, block = int(place[2]), int(place[4])
        inside = stage == 2 and place[3] == "blocks"
        group = last if stage == 3 else 3 + block // 3 if inside else stage + 1
    return decay ** (last + 1 - group)


def build_optimizer(
    groups: list[dict[str, Any]], *, name: str, base_lr: float, momentum: float, nesterov: bool
) -> torch.optim.Optimizer:
    """Returns SGD as in Detectron2, or AdamW as in ViTDet (betas 0.9 and 0.999).

    Each group's rate becomes its `lr_ratio`, which `set_rates` multiplies by a schedule's factor.
    Raises InputError for an unknown name.
    """
    groups = [{**group, "lr_ratio": group["lr"]} for group in groups]
    if name == "SGD":
        return torch.optim.SGD(
            groups, lr=base_lr, momentum=momentum, nesterov=nesterov, foreach=True
        )
    if name == "AdamW":
        return torch.optim.AdamW(groups, lr=base_lr)
    raise InputError(f"TRANSFER.OPTIMIZER '{name}' is unknown; known: {', '.join(OPTIMIZERS)}")
