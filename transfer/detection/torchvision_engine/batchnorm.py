"""Normalisation layers by the names that Detectron2's configs give them.

N batch, C channels, W processes. Specification: detectron2 `layers/batch_norm.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretrain.common.distributed import gather_with_grad, world_size
from pretrain.common.errors import InputError
from pretrain.common.lookup import find
from pretrain.common.sync_batchnorm import (
    AllReduceBatchNorm,
    keep_activation,
    norm_like,
    with_kernels,
)


class FrozenBatchNorm2d(nn.Module):
    """Normalises with fixed statistics and a fixed affine part: it has four buffers and no
    parameter.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor | None

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features) - eps)
        # None unless made by `freeze`, which keeps the counter of the layer it replaces.
        self.register_buffer("num_batches_tracked", None)

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W) and keeps its shape.

        The two forms round differently, and ReLUs behind them then flip; published gradients come
        from x * scale + shift wherever the input needs a gradient.
        """
        if not x.requires_grad:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
            )
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = scale.to(x.dtype).view(1, -1, 1, 1), shift.to(x.dtype).view(1, -1, 1, 1)
        return x * scale + shift


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Is BatchNorm2d over W processes that gives each process the same weight, whatever its batch.

    Its running variance is the biased one, unlike torch's layers. In one process, or in evaluation,
    it is plain BatchNorm2d. An empty batch is an error while synchronising.
    """

    # Narrower than torch's types: it always tracks its statistics, with a momentum.
    momentum: float
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W) and keeps its shape; ValueError if a process has no images."""
        if world_size() == 1 or not self.training:
            return super().forward(x)
        if x.shape[0] == 0:
            raise ValueError("naiveSyncBN cannot normalise an empty batch")
        dtype, x = x.dtype, x.float()  # moments of half-precision inputs are useless
        moments = torch.cat([x.mean(dim=(0, 2, 3)), (x * x).mean(dim=(0, 2, 3))])
        moments = gather_with_grad(moments[None]).sum(dim=0) * (1.0 / world_size())
        mean, mean_square = moments.chunk(2)
        var = mean_square - mean * mean
        scale = self.weight * torch.rsqrt(var + self.eps)
        shift = self.bias - mean * scale
        with torch.no_grad():
            self.running_mean += self.momentum * (mean - self.running_mean)
            self.running_var += self.momentum * (var - self.running_var)
        return (x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(dtype)


class ChannelLayerNorm(nn.Module):
    """Is layer norm over the channels of each place of a map.

    It is not a subclass of nn.LayerNorm, as in Detectron2, so its weights decay in training.
    """

    def __init__(self, num_features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises (N, C, H, W) and keeps its shape."""
        mean = x.mean(dim=1, keepdim=True)
        # The mean is subtracted twice: gradients are then summed in Detectron2's order.
        var = (x - mean).pow(2).mean(dim=1, keepdim=True)
        scaled = (x - mean) / torch.sqrt(var + self.eps)
        return self.weight[:, None, None] * scaled + self.bias[:, None, None]


def _group(channels: int) -> nn.Module:
    return nn.GroupNorm(32, channels)


NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "BN": nn.BatchNorm2d,
    "FrozenBN": FrozenBatchNorm2d,
    "GN": _group,
    "LN": ChannelLayerNorm,
    "SyncBN": AllReduceBatchNorm,
    "nnSyncBN": AllReduceBatchNorm,
    "naiveSyncBN": NaiveSyncBatchNorm,
}


def check_norm(key: str, name: str) -> None:
    """Raises InputError, with the config's key, unless `make_norm` knows the name."""
    if name and name not in NORM_LAYERS:
        raise InputError(f"{key} {name!r} is unknown; known: '', {', '.join(NORM_LAYERS)}")


def make_norm(name: str, channels: int) -> nn.Module | None:
    """Returns the layer, None for the empty name; InputError for an unknown one."""
    return find(name, NORM_LAYERS, "norm")(channels) if name else None


def use_kernels(module: nn.Module, device: torch.device) -> None:
    """Turns the layers of "SyncBN" into those that run CUDA's kernels, if the module will run on
    CUDA."""
    if device.type != "cuda":
        return
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AllReduceBatchNorm):
                setattr(parent, name, with_kernels(child))


def freeze(module: nn.Module, part: str = "") -> None:
    """Stops the training of a module's parameters and turns every batch norm below it into
    FrozenBatchNorm2d.

    Args:
        part: name of the submodule that is frozen; "": the complete module.
    """
    for parameter in module.get_submodule(part).parameters():
        parameter.requires_grad = False
    _replace(module, _frozen, part)


# Norms that take the weights of a batch norm.
BATCH_NORMS = ("FrozenBN", "BN", "SyncBN", "nnSyncBN", "naiveSyncBN")


def with_batch_norm(module: nn.Module, name: str) -> None:
    """Replaces each batch norm below a module by the norm of that name in `BATCH_NORMS`.

    The new layers have the old ones' settings, tensors and, in timm's networks, activations. A
    module without batch norm is not changed, whatever the name is.
    """
    if name == "BN":
        return
    kind = NORM_LAYERS[name] if name in BATCH_NORMS else None
    if isinstance(kind, type) and issubclass(kind, _BatchNorm):
        batch_norm: type[_BatchNorm] = kind
        _replace(module, lambda layer: norm_like(batch_norm, layer))
    elif kind is FrozenBatchNorm2d:
        _replace(module, _frozen)


def _replace(module: nn.Module, make: Callable[[_BatchNorm], nn.Module], part: str = "") -> None:
    """Replaces each batch norm below a part of a module, the part itself if it is one."""
    for name, child in list(module.named_modules()):
        inside = not part or name == part or name.startswith(f"{part}.")
        if name and inside and isinstance(child, _BatchNorm):
            module.set_submodule(name, make(child))


def _frozen(layer: _BatchNorm) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(layer.num_features, layer.eps)
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise ValueError("a batch norm without running statistics cannot be frozen")
    frozen.weight = layer.weight.detach().clone()
    frozen.bias = layer.bias.detach().clone()
    frozen.running_mean, frozen.running_var = mean, var
    frozen.num_batches_tracked = layer.num_batches_tracked
    keep_activation(frozen, layer)
    return frozen
