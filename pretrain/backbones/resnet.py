"""ResNet trunks with torchvision's names, ending in pooled features.

Legend: N batch, D `out_dim`. The input is (N, 3, H, W), the output (N, D). There is no classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.common.lookup import find


class Trunk(nn.Module):
    """Contains the stem and the residual stages, under torchvision's names (`conv1`, `bn1`,
    `layer1`, ...).

    With `checkpointing`, a training step keeps only the input of each block, and the backward pass
    computes the block again. This costs a third more FLOPs.
    """

    checkpointing = False

    def __init__(
        self, *, widths_of: ResNet | _TinyParts, stages: tuple[str, ...], maxpool: bool
    ) -> None:
        """Args: widths_of: the network from which stem and stages are taken."""
        super().__init__()
        self.conv1, self.bn1 = widths_of.conv1, widths_of.bn1
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if maxpool else nn.Identity()
        self.stages = stages
        for stage in stages:
            self.add_module(stage, getattr(widths_of, stage))
        last = getattr(self, stages[-1])[-1]
        self.out_dim = (last.bn3 if isinstance(last, Bottleneck) else last.bn2).num_features

    def forward_stages(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the maps after the stem ("stem") and after each stage, by name."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = {"stem": x}
        for stage in self.stages:
            for block in getattr(self, stage):
                x = self._block(block, x)
            maps[stage] = x
        return maps

    def _block(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpointing and self.training and torch.is_grad_enabled()):
            return block(x)
        twice = partial(_contexts, block)
        # No block draws random numbers, so their state does not have to be kept.
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=twice)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the globally averaged last map (N, D) of images (N, 3, H, W)."""
        return self.forward_stages(x)[self.stages[-1]].mean(dim=(2, 3))


def _contexts(
    block: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _buffers_kept(block)


@contextmanager
def _buffers_kept(block: nn.Module) -> Iterator[None]:
    """Restores a block's running statistics, because only the first pass of a batch may count."""
    buffers = list(block.buffers())
    kept = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept):
                buffer.copy_(value)


class _TinyParts(nn.Module):
    """A 3x3 stride-2 stem and three BasicBlocks of 32, 64, 128 channels (total stride 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = nn.Sequential(BasicBlock(32, 32))
        self.layer2 = nn.Sequential(BasicBlock(32, 64, 2, _shortcut(32, 64)))
        self.layer3 = nn.Sequential(BasicBlock(64, 128, 2, _shortcut(64, 128)))


def _shortcut(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False), nn.BatchNorm2d(outputs))


class _WideParts(ResNet):
    """ResNet-50 with all of its channels times a factor, also in the stem. These are SwAV's and
    SimCLR's "2x" and "4x" (facebookresearch/swav src/resnet50.py), which differ from torchvision's
    wide_resnet50_2."""

    def __init__(self, factor: int) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.inplanes = width = 64 * factor
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._make_layer(Bottleneck, width, 3)
        self.layer2 = self._make_layer(Bottleneck, width * 2, 4, stride=2)
        self.layer3 = self._make_layer(Bottleneck, width * 4, 6, stride=2)
        self.layer4 = self._make_layer(Bottleneck, width * 8, 3, stride=2)


def _torchvision(block: type[nn.Module], layers: list[int], **options: int) -> Trunk:
    return _large(ResNet(block, layers, **options))


def _resnext(layers: list[int], groups: int, width: int) -> Trunk:
    """Bottlenecks whose 3x3 convolution has groups of `width` channels in the first stage (Xie et
    al. 2017)."""
    return _torchvision(Bottleneck, layers, groups=groups, width_per_group=width)


def _large(network: ResNet) -> Trunk:
    stages = ("layer1", "layer2", "layer3", "layer4")
    return Trunk(widths_of=network, stages=stages, maxpool=True)


def _times(factor: int) -> Trunk:
    return _large(_WideParts(factor))


def _tiny() -> Trunk:
    return Trunk(widths_of=_TinyParts(), stages=("layer1", "layer2", "layer3"), maxpool=False)


BACKBONES: dict[str, Callable[[], Trunk]] = {
    "tiny_resnet": _tiny,
    "resnet18": partial(_torchvision, BasicBlock, [2, 2, 2, 2]),
    "resnet34": partial(_torchvision, BasicBlock, [3, 4, 6, 3]),
    "resnet50": partial(_torchvision, Bottleneck, [3, 4, 6, 3]),
    "resnet101": partial(_torchvision, Bottleneck, [3, 4, 23, 3]),
    "resnet152": partial(_torchvision, Bottleneck, [3, 8, 36, 3]),
    "wide_resnet50_2": partial(_torchvision, Bottleneck, [3, 4, 6, 3], width_per_group=128),
    "wide_resnet101_2": partial(_torchvision, Bottleneck, [3, 4, 23, 3], width_per_group=128),
    "resnet50w2": partial(_times, 2),
    "resnet50w4": partial(_times, 4),
    "resnext50_32x4d": partial(_resnext, [3, 4, 6, 3], 32, 4),
    "resnext101_32x4d": partial(_resnext, [3, 4, 23, 3], 32, 4),
    "resnext101_32x8d": partial(_resnext, [3, 4, 23, 3], 32, 8),
    "resnext101_64x4d": partial(_resnext, [3, 4, 23, 3], 64, 4),
    "resnext152_32x8d": partial(_resnext, [3, 8, 36, 3], 32, 8),
}


def build_resnet(name: str, zero_init_residual: bool = False, checkpointing: bool = False) -> Trunk:
    """Builds an untrained trunk. Convolutions are kaiming_normal fan_out, BN has weight 1, bias 0.

    Args:
        zero_init_residual: BN weight 0 in each block's last norm (Goyal et al. 2017).
        checkpointing: see `Trunk`.

    Raises:
        InputError: unknown name.
    """
    trunk = find(name, BACKBONES, "backbone")()
    trunk.checkpointing = checkpointing
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif zero_init_residual and isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)
        elif zero_init_residual and isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return trunk
