"""Linear classifiers on a backbone's features, and the features that they use.

Legend: N images, C channels of a map, D features, K classes, S side of the image in pixels.

    linear            a linear layer on the pooled features
    batchnorm_linear  BatchNorm1d(affine=False, eps=1e-6) and a linear layer on the pooled features
                      (facebookresearch/mae main_linprobe.py)
    layers            one head on each of conv1, res2 ... res5: it averages the map over windows,
                      then come BatchNorm2d, flattening and a linear layer (facebookresearch/vissl,
                      head `eval_mlp`); also one such head on the pooled features (res5avg), and one
                      linear layer without batch norm on them (res5avg_linear, VISSL's head `mlp`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError
from pretrain.common.lookup import find

# VISSL's LINEAR_EVAL_FEAT_POOL_OPS_MAP for 224 px, by side of the map: window, stride, padding, and
# side of the output
VISSL_WINDOWS = {
    "conv1": (112, (10, 10, 4), 12),
    "res2": (56, (16, 8, 0), 6),
    "res3": (28, (13, 5, 0), 4),
    "res4": (14, (8, 3, 0), 3),
    "res5": (7, (6, 1, 0), 2),
}
INITS = ("normal", "zero", "uniform")
VIT_POOLS = ("token", "patches")
Extract = Callable[[Any, Tensor], dict[str, Tensor]]  # features by name, of a trunk and images


class Heads(nn.Module):
    """Has one classifier per kind of feature; `names` prefix the metrics ("": only one kind)."""

    def __init__(self, names: list[str], heads: list[nn.Module]) -> None:
        super().__init__()
        self.names = names
        self.heads = nn.ModuleList(heads)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Returns the logits (N, K) of each head, given the features of each head."""
        return [head(values) for head, values in zip(self.heads, features)]


def pooled(trunk: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Returns the trunk's output (N, D): the averaged last map, or a ViT's class token."""
    return {"": trunk(images)}


def patches(trunk: Any, images: Tensor) -> dict[str, Tensor]:
    """Returns the mean of a timm ViT's patch tokens after a layer norm without parameters (N, D).

    This is MAE's `--global_pool`; the last norm of the trunk must have been removed.
    """
    tokens = trunk.forward_features(images)[:, trunk.num_prefix_tokens :].mean(dim=1)
    return {"": F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)}


def layers(trunk: Trunk, images: Tensor) -> dict[str, Tensor]:
    """Returns the features that VISSL probes.

    They are the maps of the stem and of each stage, averaged over windows as VISSL does, (N, C, h,
    h), and the last map averaged over all positions: (N, C, 1, 1) for a head with batch norm and
    (N, C) for one without. A map whose side differs from its side at 224 px is averaged to the same
    h by adaptive windows, or to its own side if that is smaller.
    """
    x = trunk.relu(trunk.bn1(trunk.conv1(images)))
    maps = {"conv1": vissl_pool(x, "conv1")}
    x = trunk.maxpool(x)
    for number, stage in enumerate(trunk.stages, start=2):
        x = getattr(trunk, stage)(x)
        last = f"res{number}"
        maps[last] = vissl_pool(x, last)
    maps[f"{last}avg"] = x.mean(dim=(2, 3), keepdim=True)
    maps[f"{last}avg_linear"] = x.mean(dim=(2, 3))
    return maps


def vissl_pool(x: Tensor, name: str) -> Tensor:
    """Averages (N, C, H, H) to (N, C, h, h) with the window of the layer `name`."""
    side, (window, stride, padding), pooled_side = VISSL_WINDOWS[name]
    if x.shape[-1] == x.shape[-2] == side:
        return F.avg_pool2d(x, window, stride, padding)
    height, width = (min(pooled_side, length) for length in x.shape[-2:])
    return F.adaptive_avg_pool2d(x, (height, width))


def check_kinds(head: str, init: str, vit_pool: str) -> None:
    """Raises InputError for an unknown name."""
    find(head, HEADS, "head", "TRAIN.HEAD")
    find(init, dict.fromkeys(INITS), "start of the head", "TRAIN.HEAD_INIT")
    find(vit_pool, dict.fromkeys(VIT_POOLS), "pooling of a ViT", "TRAIN.VIT_POOL")


def choose_features(kind: str, trunk: nn.Module, vit_pool: str) -> Extract:
    """Returns the function that extracts this kind's features; InputError if the trunk has none."""
    if kind == "layers":
        if not isinstance(trunk, Trunk):
            raise InputError("TRAIN.HEAD layers needs a ResNet; set it to linear for this backbone")
        return layers
    if vit_pool == "patches" and hasattr(trunk, "num_prefix_tokens"):  # a ViT
        return patches
    return pooled


def build_heads(
    kind: str, features: dict[str, Tensor], num_classes: int, init: str, seed: int
) -> Heads:
    """Returns heads for features of the given shapes (with any N), initialised from `seed`.

    Args:
        init: "normal" (std 0.01, bias 0), "zero", or torch's default ("uniform", as VISSL).
    """
    make = HEADS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = [make(values.shape[1:], num_classes, init) for values in features.values()]
    return Heads(list(features), heads)


def _linear(shape: torch.Size, num_classes: int, init: str) -> nn.Linear:
    layer = nn.Linear(shape.numel(), num_classes)
    if init != "uniform":
        nn.init.zeros_(layer.bias)
        (
            nn.init.normal_(layer.weight, std=0.01)
            if init == "normal"
            else nn.init.zeros_(layer.weight)
        )
    return layer


def _batchnorm_linear(shape: torch.Size, num_classes: int, init: str) -> nn.Module:
    norm = nn.BatchNorm1d(shape[0], affine=False, eps=1e-6)
    return nn.Sequential(norm, _linear(shape, num_classes, init))


def _layer(shape: torch.Size, num_classes: int, init: str) -> nn.Module:
    if len(shape) == 1:
        return _linear(shape, num_classes, init)
    return nn.Sequential(nn.BatchNorm2d(shape[0]), nn.Flatten(), _linear(shape, num_classes, init))


HEADS: dict[str, Callable[[torch.Size, int, str], nn.Module]] = {
    "linear": _linear,
    "batchnorm_linear": _batchnorm_linear,
    "layers": _layer,
}
