"""Gives a ResNet trunk a finer stride by dilated convolutions, with the same weights.

A stage that halved the resolution of its input now keeps it, and its 3x3 convolutions reach twice
as far (Chen et al., DeepLab). Names and shapes of the weights do not change.
"""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import Bottleneck

from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError


def total_stride(trunk: Trunk) -> int:
    """Returns the number of input pixels per feature, along one axis."""
    (stem,) = _convs(trunk, "conv1")
    stride = stem.stride[0] * (1 if isinstance(trunk.maxpool, nn.Identity) else 2)
    return stride * 2 ** len(_striding(trunk))


def dilate(trunk: Trunk, output_stride: int, contract: bool) -> None:
    """Gives the trunk the stride `output_stride`, in place, by dilating its last stages.

    Args:
        contract: the convolution that lost its stride keeps the dilation of the previous stage.
            Then every convolution has the same inputs as before, and the old features are a subset
            of the new ones; torchvision and mmseg do so for bottlenecks. (Of a block of ResNet-18
            or -34, mmseg never dilates the second convolution.) False: it is dilated like the rest
            of its stage.

    Raises:
        InputError: no number of dilated stages gives this stride.
    """
    striding, total = _striding(trunk), total_stride(trunk)
    options = [total // 2**count for count in range(len(striding) + 1)]
    if output_stride not in options:
        known = ", ".join(map(str, options))
        raise InputError(
            f"TRANSFER.SEMANTIC.OUTPUT_STRIDE {output_stride} is not possible; this backbone"
            f" supports: {known}"
        )
    dilation = 1
    for stage in striding[len(striding) - options.index(output_stride) :]:
        _dilate_stage(stage, dilation, 2 * dilation, contract)
        dilation *= 2


def _striding(trunk: Trunk) -> list[nn.Sequential]:
    """Returns the stages that halve the resolution; they are the last stages."""
    stages = [getattr(trunk, name) for name in trunk.stages]
    return [stage for stage in stages if stage[0].stride == 2]


def _dilate_stage(stage: nn.Sequential, before: int, after: int, contract: bool) -> None:
    for index, block in enumerate(stage):
        reach = before if contract and index == 0 else after
        last = ("conv3",) if isinstance(block, Bottleneck) else ()
        for conv in _convs(block, "conv1", "conv2", *last):  # the main path, in order
            strided = conv.stride[0] > 1
            conv.stride = (1, 1)
            if conv.kernel_size[0] > 1:
                conv.dilation = (reach, reach)
                conv.padding = (reach * (conv.kernel_size[0] // 2),) * 2
            if strided:  # from here on, pixels are twice as close as they were
                reach = after
    (shortcut,) = _convs(stage[0], "downsample.0")
    shortcut.stride = (1, 1)


def _convs(module: nn.Module, *names: str) -> list[nn.Conv2d]:
    found = [module.get_submodule(name) for name in names]
    return [conv for conv in found if isinstance(conv, nn.Conv2d)]
