"""The numerical proof of a conversion: source network and converted network on the same inputs.

The source network is loaded by asking the file for each of its own names; the converted one is
loaded from the dict that is about to be written, in the output layout's own module class. Neither
uses the converter's renaming. N images of H x W; a stage is "stem", "layer1", ...
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from pretrain.backbones.resnet import build_resnet
from transfer.checkpoints.formats import KeyFormat
from transfer.checkpoints.layout import to_layout
from transfer.checkpoints.rebuilt import Detectron2ResNet
from transfer.checkpoints.weights import COUNTER, Weights

TOLERANCE = 1e-5  # relative; equal operations give 0, another order of sums about 1e-7


class ProofError(Exception):
    """The converted weights are not the source's; nothing was written."""


@dataclass(frozen=True)
class StageDifference:
    """How far two networks are apart after one stage.

    Attributes:
        inputs: "random", "photo", ...
        max_abs: largest absolute difference.
        relative: max_abs over the source's largest absolute value; infinite when not comparable.
    """

    inputs: str
    stage: str
    max_abs: float
    relative: float

    @property
    def passed(self) -> bool:
        """Whether the stage is equal up to rounding."""
        return self.relative <= TOLERANCE


class TorchvisionResNet(nn.Module):
    """torchvision's own model (the tiny trunk: ours), with the maps after each stage."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.stages = ("layer1", "layer2", "layer3", "layer4")
        self.network = torchvision.models.get_model(backbone, weights=None)
        self.network.fc = nn.Identity()

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) -> the maps after "stem", "layer1", ..."""
        net = self.network
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        maps = {"stem": x}
        for stage in self.stages:
            x = maps[stage] = getattr(net, stage)(x)
        return maps


def prove(source: nn.Module, weights: Weights, layout: str) -> list[StageDifference]:
    """Compares the source network with the weights in an output layout, stage by stage.

    Args:
        source: from `source_network`, in eval mode.
        layout: "detectron2" or "torchvision".

    Returns:
        one row per input and stage; the conversion is right when all have `passed`.

    Raises:
        ProofError: a name of the layout is missing, of another shape, or too many.
    """
    converted = load_layout(to_layout(weights.state, layout), weights.backbone, layout)
    inputs = dict(proof_inputs(weights))
    rows = [row for name, x in inputs.items() for row in _compare(source, converted, x, name)]
    if _has_silent_branches(source):
        # A norm weight of 0 hides the convolutions before it; both networks get ones there.
        with _Awake(source), _Awake(converted):
            rows += _compare(source, converted, inputs["random"], "random, zero norms set to 1")
    return rows


def source_network(entry: KeyFormat, tensors: Mapping[str, Tensor], backbone: str) -> nn.Module:
    """The network in the source's own layout, filled from the source's own names."""
    network = Detectron2ResNet(backbone) if entry.layout == "detectron2" else build_resnet(backbone)
    prefix = entry.prefix
    return _fill(network, {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})


def load_layout(tensors: Mapping[str, Tensor], backbone: str, layout: str) -> nn.Module:
    """The module class of an output layout, filled from a converted dict."""
    with torch.device("meta"):
        if layout == "detectron2":
            network = named = Detectron2ResNet(backbone)
        elif backbone == "tiny_resnet":
            network = named = build_resnet(backbone)
        else:
            network = TorchvisionResNet(backbone)
            named = network.network
    foreign = sorted(set(tensors) - set(named.state_dict()))
    if foreign:
        raise ProofError(f"the layout has no {', '.join(foreign[:4])}")
    _fill(named, tensors)
    return network.eval()


def proof_inputs(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """("random", (2, 3, 64, 96)) seeded noise and ("photo", (1, 3, 96, 128)) preprocessed."""
    generator = torch.Generator().manual_seed(0)
    yield "random", torch.randn(2, 3, 64, 96, generator=generator)
    yield "photo", weights.preprocess.apply(_photo()[None])


def _photo() -> Tensor:
    """uint8 (3, 96, 128) from scikit-learn's sample photographs: natural statistics."""
    from sklearn.datasets import load_sample_image  # slow to import

    pixels = np.ascontiguousarray(load_sample_image("china.jpg")[100:388:3, 160:544:3])
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _fill(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Puts a tensor behind each of the network's names, without copying float32 ones.

    All names but BN's counters, which evaluation does not read, must be there.
    """
    chosen = {}
    for name, own in network.state_dict().items():
        if name.endswith(COUNTER):
            continue
        if name not in tensors or tensors[name].shape != own.shape:
            shape = tuple(tensors[name].shape) if name in tensors else "missing"
            raise ProofError(f"{name} is {shape}, where the layout has {tuple(own.shape)}")
        chosen[name] = tensors[name].float()
    network.load_state_dict(chosen, strict=False, assign=True)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def _compare(
    source: nn.Module, converted: nn.Module, x: Tensor, inputs: str
) -> list[StageDifference]:
    theirs, ours = source.forward_stages(x), converted.forward_stages(x)
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


def _norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def _has_silent_branches(network: nn.Module) -> bool:
    return any(not norm.weight.any() for norm in _norms(network))


class _Awake:
    """Within the context every all-zero norm weight is 1."""

    def __init__(self, network: nn.Module) -> None:
        self.own = [(norm, norm.weight) for norm in _norms(network) if not norm.weight.any()]

    def __enter__(self) -> None:
        for norm, weight in self.own:
            norm.weight = nn.Parameter(torch.ones_like(weight), requires_grad=False)

    def __exit__(self, *_: object) -> None:
        for norm, weight in self.own:
            norm.weight = weight
