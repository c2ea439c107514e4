"""Builds a classifier from weights: a backbone, frozen or trained, with new heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from transfer.checkpoints.build import build_frozen_backbone
from transfer.checkpoints.weights import Weights
from transfer.classification.trained_head import TrainedHead
from transfer.classification.training.heads import (
    Extract,
    Heads,
    build_heads,
    check_kinds,
    choose_features,
    pooled,
)


class Classifier(nn.Module):
    """Maps preprocessed images (N, 3, S, S) to logits (N, K) of each head.

    A frozen backbone stays in eval mode also after `train()`: batch norm in training mode would
    change its statistics, which belong to the checkpoint. `names` are the names of the heads.
    """

    def __init__(self, trunk: nn.Module, extract: Extract, heads: Heads, frozen: bool) -> None:
        super().__init__()
        self.names = heads.names
        self.trunk: nn.Module = trunk
        self.heads: nn.Module = heads
        self.extract, self.frozen = extract, frozen
        trunk.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Classifier:
        """Sets the training mode of the heads, and of the backbone unless it is frozen."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def trained(self) -> nn.Module:
        """Returns the part that is trained: the heads, or the full classifier."""
        return self.heads if self.frozen else self

    def features(self, images: Tensor) -> list[Tensor]:
        """Returns the features of each head, without a gradient if the backbone is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return list(self.extract(self.trunk, images).values())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns the logits of each head. The heads compute in float32, also under autocast."""
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.heads([values.float() for values in features])


def build_classifier(
    weights: Weights,
    *,
    head: str,
    num_classes: int,
    image_size: int,
    frozen: bool,
    init: str = "normal",
    vit_pool: str = "token",
    seed: int = 0,
) -> Classifier:
    """Returns the weights' backbone with new heads (see `heads`) from `seed`, on the CPU.

    Raises InputError for an unknown head, start or pooling, and for a head that needs a ResNet.
    """
    check_kinds(head, init, vit_pool)
    trunk = build_frozen_backbone(weights)
    extract = choose_features(head, trunk, vit_pool)
    if extract.__name__ == "patches":
        # MAE's global pooling has its norm after the mean; if the trunk has one, it is not used.
        trunk.norm = trunk.fc_norm = nn.Identity()
    with torch.no_grad():
        example = extract(trunk, torch.zeros(1, 3, image_size, image_size))
    heads = build_heads(head, example, num_classes, init, seed)
    return Classifier(trunk, extract, heads, frozen)


def trained_head(model: Classifier, classes: tuple[str, ...]) -> TrainedHead | None:
    """Returns the head of a frozen backbone's own features (N, D), with its batch norm as scaling.

    It is None for a classifier with several heads or with different features, and for one whose
    backbone was trained too.
    """
    if not (model.frozen and model.names == [""] and model.extract is pooled):
        return None
    parts = [part for part in model.heads.modules() if isinstance(part, (_BatchNorm, nn.Linear))]
    linear = parts[-1]
    assert isinstance(linear, nn.Linear)
    mean, scale = torch.zeros(linear.in_features), torch.ones(linear.in_features)
    for norm in parts[:-1]:  # without weight and bias, see `heads`
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None and norm.running_var is not None
        mean, scale = norm.running_mean, (norm.running_var + norm.eps).rsqrt()
    weight, bias, mean, scale = [
        tensor.detach().float().cpu().contiguous()
        for tensor in (linear.weight.T, linear.bias, mean, scale)
    ]
    return TrainedHead(weight, bias, mean, scale, classes)


def changed_tensors(trunk: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the trunk's tensors that are not bit-equal to the checkpoint's.

    Batch-norm statistics are included.
    """
    now = trunk.state_dict()
    return [name for name, tensor in state.items() if name in now and not equal(now[name], tensor)]


def equal(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors are bit-equal; they may be on different devices."""
    return torch.equal(one.detach().cpu(), other.detach().cpu())
