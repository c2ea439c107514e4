"""The numerical proof of a conversion: the source network and the converted network get the same
inputs.

The source network is loaded by asking the file for each of its own names; the converted one is
loaded from the dict that is about to be written, in the output layout's own module class. Neither
uses the converter's renaming. N images of H x W; a stage is "stem", "layer1", ...
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from pretrain.backbones.resnet import build_resnet
from transfer.checkpoints.build import stride_in_1x1
from transfer.checkpoints.formats.key_format import Found
from transfer.checkpoints.names.layouts import to_layout
from transfer.checkpoints.networks.convnext import build_convnext, parse_convnext
from transfer.checkpoints.networks.efficientnet_lite import REPEATS
from transfer.checkpoints.networks.timm_convnets import build_timm_convnet, is_timm_convnet
from transfer.checkpoints.networks.vit_architectures import Vit, parse_vit
from transfer.checkpoints.networks.vit_trunk import NORM_EPS, build_vit
from transfer.checkpoints.originals.convnext import SPELLINGS, PlainConvNext, TimmConvNext
from transfer.checkpoints.originals.efficientnet_lite import PlainEfficientNetLite, TimmConvNet
from transfer.checkpoints.originals.foreign_resnet import ROWS
from transfer.checkpoints.originals.foreign_resnet import fill as fill_foreign
from transfer.checkpoints.originals.huggingface import HfResNet
from transfer.checkpoints.originals.resnet import Detectron2ResNet
from transfer.checkpoints.originals.vit import PlainVit, TimmVit
from transfer.checkpoints.weights import COUNTER, Weights

TOLERANCE = 1e-5  # relative; equal operations give 0, a different order of sums about 1e-7


class ProofError(Exception):
    """Says that the converted weights differ from the source; nothing was written."""


@dataclass(frozen=True)
class StageDifference:
    """Is the difference of two networks after one stage.

    Attributes:
        inputs: "random", "photo", ...
        max_abs: largest absolute difference.
        relative: max_abs divided by the source's largest absolute value; infinite if not
            comparable.
    """

    inputs: str
    stage: str
    max_abs: float
    relative: float

    @property
    def passed(self) -> bool:
        """Returns whether the stage is equal except for rounding."""
        return self.relative <= TOLERANCE


class TorchvisionResNet(nn.Module):
    """Is torchvision's own model (the tiny trunk: ours), with the maps after each stage."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.stages = ("layer1", "layer2", "layer3", "layer4")
        self.network = torchvision.models.get_model(backbone, weights=None)
        self.network.fc = nn.Identity()

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "layer1", ..."""
        net = self.network
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        maps = {"stem": x}
        for stage in self.stages:
            x = maps[stage] = getattr(net, stage)(x)
        return maps


class Numeric(nn.Module):
    """Is an `nn.Sequential` over torchvision's children, as lightly's examples build it."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone in torchvision.models.list_models():
            children = list(torchvision.models.get_model(backbone, weights=None).children())[:-2]
        else:
            trunk = build_resnet(backbone)
            parts = (trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool)
            children = [*parts, *(getattr(trunk, stage) for stage in trunk.stages)]
        self.layers = nn.Sequential(*children)

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps of images (N, 3, H, W) after "stem", "layer1", ..."""
        maps = {}
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number >= 3:
                maps["stem" if number == 3 else f"layer{number - 3}"] = x
        return maps


def prove(source: nn.Module, weights: Weights, layout: str) -> list[StageDifference]:
    """Compares the source network with the weights in an output layout, stage by stage.

    Args:
        source: from `source_network`, in eval mode.
        layout: an output layout, a key of `names.layouts.LAYOUTS`.

    Returns:
        one row per input and stage; the conversion is right if all have `passed`.

    Raises:
        ProofError: a name of the layout is missing, of a different shape, or too many.
    """
    converted = load_layout(
        to_layout(weights.state, layout), weights.backbone, layout, weights.architecture
    )
    inputs = dict(proof_inputs(weights))
    rows = [row for name, x in inputs.items() for row in compare(source, converted, x, name)]
    if _has_silent_branches(source):
        # A norm weight of 0 hides the convolutions before it; both networks get ones in its place.
        with _Awake(source), _Awake(converted):
            rows += compare(source, converted, inputs["random"], "random, zero norms set to 1")
    if isinstance(source, PlainConvNext) and source.is_silent():
        assert isinstance(converted, TimmConvNext), "every layout of a ConvNeXt is timm's"
        with _Loud(source), _Loud(converted):
            rows += compare(source, converted, inputs["random"], "random, scales set to 1")
    return rows


def source_network(found: Found, weights: Weights) -> nn.Module:
    """Returns the network in the source's own layout, filled from the source's own names.

    Raises:
        ProofError: a name of the layout is missing.
    """
    backbone, tensors, layout = weights.backbone, found.trunk(), found.layout.name
    stride = bool(weights.architecture.get("stride_in_1x1"))
    vit = parse_vit(backbone)
    if vit is not None:
        return _plain_vit(tensors, layout, vit, weights.architecture)
    if layout in SPELLINGS:
        return PlainConvNext(tensors, layout, weights.architecture.get("last_norm_eps", 1e-6))
    if layout == "efficientnet_lite":
        return PlainEfficientNetLite(tensors, REPEATS[backbone])
    if layout in ROWS:
        with _unfilled(backbone):
            foreign = Detectron2ResNet(backbone, stride, weights.architecture.get("padding"))
        try:
            return fill_foreign(foreign, tensors, ROWS[layout])
        except KeyError as error:
            raise ProofError(f"the source has no {error.args[0]}") from error
    network: nn.Module
    with _unfilled(backbone):
        if is_timm_convnet(backbone):
            network = build_timm_convnet(backbone)
        elif layout == "detectron2":
            network = Detectron2ResNet(backbone, stride)
        elif layout == "hf_resnet":
            network = HfResNet(backbone, stride)
        elif layout == "numeric":
            network = Numeric(backbone)
            tensors = {f"layers.{name}": t for name, t in tensors.items()}
        else:
            network = build_resnet(backbone)
            if stride:
                stride_in_1x1(network)
    network = _fill(network, tensors)
    return TimmConvNet(network).eval() if is_timm_convnet(backbone) else network


def load_layout(
    tensors: Mapping[str, Tensor], backbone: str, layout: str, architecture: Mapping[str, Any]
) -> nn.Module:
    """Returns the module of an output layout, filled from a converted dict."""
    vit = parse_vit(backbone)
    if layout == "vitdet":
        assert vit is not None, "ViTDet's layout is a ViT's"
        return _plain_vit(tensors, layout, vit, architecture)
    stride = bool(architecture.get("stride_in_1x1"))
    network: nn.Module  # whose stages are compared
    named: nn.Module  # whose names are the layout's: the network itself, or the one inside it
    with _unfilled(backbone):
        if layout == "detectron2":
            network = named = Detectron2ResNet(backbone, stride)
        elif vit is not None:
            network = TimmVit(build_vit(vit, architecture))
            named = network.network
        elif (convnext := parse_convnext(backbone)) is not None:
            network = TimmConvNext(build_convnext(convnext, architecture))
            named = network.network
        elif is_timm_convnet(backbone):
            network = TimmConvNet(build_timm_convnet(backbone))
            named = network.network
        elif backbone in torchvision.models.list_models():
            network = TorchvisionResNet(backbone)
            named = network.network
        else:
            network = named = build_resnet(backbone)
        if stride and layout != "detectron2":
            stride_in_1x1(named)
    foreign = sorted(set(tensors) - set(named.state_dict()))
    if foreign:
        raise ProofError(f"the layout has no {', '.join(foreign[:4])}")
    _fill(named, tensors)
    return network.eval()


def _plain_vit(
    tensors: Mapping[str, Tensor], layout: str, vit: Vit, architecture: Mapping[str, Any]
) -> PlainVit:
    heads = architecture.get("num_heads", vit.heads)
    return PlainVit(tensors, layout, heads, vit.depth, architecture.get("norm_eps", NORM_EPS))


def proof_inputs(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """Yields ("random", seeded noise) and ("photo", a preprocessed photograph), small.

    Weights from TensorFlow get odd sides, at which its padding and torch's are the same; a ViT gets
    the size that its positions are for.
    """
    generator = torch.Generator().manual_seed(0)
    vit = parse_vit(weights.backbone)
    if vit is not None:
        side = vit.image_size
        yield "random", torch.randn(1, 3, side, side, generator=generator)
        yield "photo", weights.preprocess.apply(photo(side, side)[None])
        return
    odd = 1 if weights.architecture.get("padding") else 0
    yield "random", torch.randn(2, 3, 64 + odd, 96 + odd, generator=generator)
    yield "photo", weights.preprocess.apply(photo(96 + odd, 128 + odd)[None])


def photo(height: int, width: int) -> Tensor:
    """Returns uint8 (3, height, width) of scikit-learn's sample photographs: natural statistics.

    If the size is larger than the photograph, the photograph is mirrored at its borders.
    """
    from sklearn.datasets import load_sample_image  # slow to import

    pixels = np.ascontiguousarray(load_sample_image("china.jpg")[100:, 100:])
    step = 3 if max(height, width) < 108 else 1
    rows, columns = (max(side - have, 0) for side, have in zip((height, width), pixels.shape))
    pixels = np.pad(pixels, ((0, rows), (0, columns), (0, 0)), mode="symmetric")
    cut = pixels[: height * step : step, : width * step : step]
    return torch.from_numpy(np.ascontiguousarray(cut)).permute(2, 0, 1)


def _unfilled(backbone: str) -> AbstractContextManager[object]:
    """Where to build a network that `_fill` gives its values: on meta, which has none itself.

    Some of timm's ConvNets have buffers that no file holds, such as the filter of BlurPool. On meta
    their values would be lost.
    """
    return nullcontext() if is_timm_convnet(backbone) else torch.device("meta")


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Sets each of the network's tensors, without copying those in float32.

    All names but BN's counters, which evaluation does not read, must be there.
    """
    chosen = {}
    network.eval()
    for name, own in network.state_dict().items():
        if name.endswith(COUNTER):
            continue
        if name not in tensors or tensors[name].shape != own.shape:
            shape = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ProofError(f"{name} is {shape}, but the layout has {tuple(own.shape)}")
        chosen[name] = tensors[name].float()
    network.load_state_dict(chosen, strict=False, assign=True)
    lost = [n for n, own in network.named_buffers() if own.is_meta and not n.endswith(COUNTER)]
    assert not lost, f"{lost} have no values: build the network outside of meta"
    return network.eval().requires_grad_(False)


@torch.no_grad()
def compare(
    source: nn.Module, converted: nn.Module, x: Tensor, inputs: str
) -> list[StageDifference]:
    """Returns one row per stage of two networks that get the same `x` (N, 3, H, W)."""
    theirs, ours = _stages(source, x), _stages(converted, x)
    assert list(theirs) == list(ours), f"stages differ: {list(theirs)} {list(ours)}"
    rows = []
    for stage, map_ in theirs.items():
        scale = map_.abs().max().item()
        max_abs = (map_ - ours[stage]).abs().max().item()
        comparable = math.isfinite(scale) and math.isfinite(max_abs) and scale > 0
        rows.append(
            StageDifference(inputs, stage, max_abs, max_abs / scale if comparable else math.inf)
        )
    return rows


def _stages(network: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Returns the maps after each stage: every network that is compared has this method."""
    forward: Callable[[Tensor], dict[str, Tensor]] = getattr(network, "forward_stages")
    return forward(x)


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _has_silent_branches(network: nn.Module) -> bool:
    return any(not norm.weight.any() for norm in _norms(network))


class _Awake:
    """Sets every norm weight that is all zero to 1 inside the context."""

    def __init__(self, network: nn.Module) -> None:
        self.own = [(norm, norm.weight) for norm in _norms(network) if not norm.weight.any()]

    def __enter__(self) -> None:
        for norm, weight in self.own:
            norm.weight = nn.Parameter(torch.ones_like(weight), requires_grad=False)

    def __exit__(self, *_: object) -> None:
        for norm, weight in self.own:
            norm.weight = weight


class _Loud:
    """Sets a ConvNeXt's layer scales to 1 inside the context."""

    def __init__(self, network: PlainConvNext | TimmConvNext) -> None:
        self.network = network

    def __enter__(self) -> None:
        self.network.wake(True)

    def __exit__(self, *_: object) -> None:
        self.network.wake(False)
