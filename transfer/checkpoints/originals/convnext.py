"""A ConvNeXt on a file's own names, to prove a conversion against.

Written from "A ConvNet for the 2020s" (arXiv 2201.03545) and ConvNeXt V2 (2301.00808): patches of
4 x 4, blocks of a 7x7 depthwise convolution, LayerNorm, two linear layers with exact GELU, in V2 a
response normalisation between them, a norm and a 2x2 convolution between stages; eps 1e-6. Each
spelling says which names a file has for the parts; the converter's table is not used here. N batch,
D channels; maps are (N, D, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from timm.models.convnext import ConvNeXt

EPS = 1e-6
QUIET = 1e-2  # below this layer scale, too little of a block remains to be compared


class Names(NamedTuple):
    """Holds the names of the parts in a file.

    Attributes:
        stem: returns the name of the stem's convolution (0) or norm (1).
        down: returns the name of the norm (0) or convolution (1) between stages, for a stage.
        block: returns what the names of a block begin with, for a stage and a block.
        depthwise, norm, first, second: modules of a block; scale: its layer scale.
        response: names of the response normalisation's scale and shift; last: norm after pooling.
    """

    stem: Callable[[int], str]
    down: Callable[[int, int], str]
    block: Callable[[int, int], str]
    depthwise: str
    norm: str
    first: str
    second: str
    scale: str
    response: tuple[str, str]
    last: str


_FAIR = Names(
    lambda part: f"downsample_layers.0.{part}",
    lambda stage, part: f"downsample_layers.{stage}.{part}",
    lambda stage, block: f"stages.{stage}.{block}",
    *("dwconv", "norm", "pwconv1", "pwconv2", "gamma", ("grn.gamma", "grn.beta"), "norm"),
)
_DINOV3 = Names(
    lambda part: f"stages.0.downsample_layers.{part}",
    lambda stage, part: f"stages.{stage}.downsample_layers.{part}",
    lambda stage, block: f"stages.{stage}.layers.{block}",
    *("depthwise_conv", "layer_norm", "pointwise_conv1", "pointwise_conv2", "gamma"),
    *(("none", "none"), "layer_norm"),
)
SPELLINGS = {
    "timm_convnext": Names(
        lambda part: f"stem.{part}",
        lambda stage, part: f"stages.{stage}.downsample.{part}",
        lambda stage, block: f"stages.{stage}.blocks.{block}",
        *("conv_dw", "norm", "mlp.fc1", "mlp.fc2", "gamma"),
        *(("mlp.grn.weight", "mlp.grn.bias"), "head.norm"),
    ),
    "fair_convnext": _FAIR,
    "fcmae": _FAIR,
    "torchvision_convnext": Names(
        lambda part: f"features.0.{part}",
        lambda stage, part: f"features.{2 * stage}.{part}",
        lambda stage, block: f"features.{2 * stage + 1}.{block}",
        *("block.0", "block.2", "block.3", "block.5", "layer_scale", ("none", "none")),
        "classifier.0",
    ),
    "mm_convnext": _FAIR._replace(
        depthwise="depthwise_conv", first="pointwise_conv1", second="pointwise_conv2", last="norm3"
    ),
    "hf_convnext": Names(
        lambda part: f"embeddings.{('patch_embeddings', 'layernorm')[part]}",
        lambda stage, part: f"encoder.stages.{stage}.downsampling_layer.{part}",
        lambda stage, block: f"encoder.stages.{stage}.layers.{block}",
        *("dwconv", "layernorm", "pwconv1", "pwconv2", "layer_scale_parameter"),
        *(("grn.weight", "grn.bias"), "layernorm"),
    ),
    "hf4_dinov3_convnext": _DINOV3,
    "hf_dinov3_convnext": _DINOV3._replace(
        stem=lambda part: f"model.stages.0.downsample_layers.{part}",
        down=lambda stage, part: f"model.stages.{stage}.downsample_layers.{part}",
        block=lambda stage, block: f"model.stages.{stage}.layers.{block}",
    ),
}
# The inner module of MinkowskiEngine's convolutions, and its name for a kernel.
_WEIGHTS = ("weight", "kernel", "ln.weight", "linear.weight")
_BIASES = ("bias", "ln.bias", "linear.bias")


class PlainConvNext(nn.Module):
    """Computes the network on a mapping of tensors; each tensor is looked up by its own name."""

    def __init__(self, tensors: Mapping[str, Tensor], layout: str, last_eps: float = EPS) -> None:
        """Args: layout: a key of SPELLINGS; last_eps: the epsilon of the norm after pooling."""
        super().__init__()
        self.tensors, self.names, self.last_eps = tensors, SPELLINGS[layout], last_eps
        self.awake = False

    def is_silent(self) -> bool:
        """Returns whether a layer scale hides its block, as the 1e-6 of a new network does."""
        end = f".{self.names.scale}"
        scales = [value for name, value in self.tensors.items() if name.endswith(end)]
        return any(float(scale.abs().max()) < QUIET for scale in scales)

    def wake(self, awake: bool) -> None:
        """Takes every layer scale for 1, or for what it is."""
        self.awake = awake

    def _get(self, module: str, leaves: tuple[str, ...]) -> Tensor:
        return next(
            self.tensors[f"{module}.{leaf}"].float()
            for leaf in leaves
            if f"{module}.{leaf}" in self.tensors
        )

    def _conv(self, x: Tensor, module: str, **options: int) -> Tensor:
        kernel = self._get(module, _WEIGHTS)
        if kernel.dim() < 4:
            kernel = _from_places(kernel)
        return F.conv2d(x, kernel, self._get(module, _BIASES).flatten(), **options)

    def _linear(self, x: Tensor, module: str) -> Tensor:
        weight = self._get(module, _WEIGHTS)
        bias = self._get(module, _BIASES).flatten()
        return F.conv2d(x, weight.reshape(*weight.shape[:2], 1, 1), bias)

    def _norm(self, x: Tensor, module: str, eps: float = EPS) -> Tensor:
        """Normalises over D of (N, D, H, W)."""
        centred = x - x.mean(dim=1, keepdim=True)
        x = centred / (centred.square().mean(dim=1, keepdim=True) + eps).sqrt()
        if not any(f"{module}.{leaf}" in self.tensors for leaf in _WEIGHTS):
            return x
        weight, bias = self._get(module, _WEIGHTS), self._get(module, _BIASES)
        return x * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)

    def _block(self, x: Tensor, head: str) -> Tensor:
        names = self.names
        depthwise = f"{head}.{names.depthwise}"
        out = self._conv(x, depthwise, padding=3, groups=x.shape[1])
        out = F.gelu(self._linear(self._norm(out, f"{head}.{names.norm}"), f"{head}.{names.first}"))
        scale = self.tensors.get(f"{head}.{names.response[0]}")
        if scale is not None:
            shift = self.tensors[f"{head}.{names.response[1]}"]
            strength = out.square().sum(dim=(2, 3), keepdim=True).sqrt()
            strength = strength / (strength.mean(dim=1, keepdim=True) + EPS)
            scaled = scale.float().view(1, -1, 1, 1) * (out * strength)
            out = out + scaled + shift.float().view(1, -1, 1, 1)
        out = self._linear(out, f"{head}.{names.second}")
        own = None if self.awake else self.tensors.get(f"{head}.{names.scale}")
        return x + (out if own is None else out * own.float().view(1, -1, 1, 1))

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "stage1", ..., and "features"."""
        names = self.names
        x = self._norm(self._conv(x, names.stem(0), stride=4), names.stem(1))
        maps = {"stem": x}
        for stage in range(4):
            if stage:
                x = self._norm(x, names.down(stage, 0))
                x = self._conv(x, names.down(stage, 1), stride=2)
            block = 0
            while any(n.startswith(f"{names.block(stage, block)}.") for n in self.tensors):
                x = self._block(x, names.block(stage, block))
                block += 1
            maps[f"stage{stage + 1}"] = x
        pooled = x.mean(dim=(2, 3), keepdim=True)
        return {**maps, "features": self._norm(pooled, names.last, self.last_eps).flatten(1)}


def _from_places(kernel: Tensor) -> Tensor:
    """Returns (out, in, k, k) of MinkowskiEngine's (k * k, D) or (k * k, in, out), by place."""
    side = round(len(kernel) ** 0.5)
    full = kernel[:, None] if kernel.dim() == 2 else kernel
    dense = full.new_empty(full.shape[2], full.shape[1], side, side)
    for place in range(side * side):
        dense[:, :, place % side, place // side] = full[place].T
    return dense


class TimmConvNext(nn.Module):
    """Is timm's model; it returns the maps of the same stages."""

    def __init__(self, network: ConvNeXt) -> None:
        super().__init__()
        self.network = network
        self.own: dict[nn.Module, nn.Parameter] = {}

    def wake(self, awake: bool) -> None:
        """Takes every layer scale for 1, or for what it is."""
        for block in self.network.modules():
            gamma = getattr(block, "gamma", None)
            if awake and isinstance(gamma, nn.Parameter):
                self.own[block] = gamma
                block.gamma = nn.Parameter(torch.ones_like(gamma), requires_grad=False)
            elif not awake and block in self.own:
                block.gamma = self.own.pop(block)

    @torch.no_grad()
    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "stage1", ..., and "features"."""
        x = self.network.stem(x)
        maps = {"stem": x}
        for number, stage in enumerate(self.network.stages.children(), start=1):
            x = maps[f"stage{number}"] = stage(x)
        return {**maps, "features": self.network.head(x)}
