"""Builds the frozen backbone of weights, including its differences from the standard network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from pretrain.backbones.resnet import Trunk, build_resnet
from transfer.checkpoints.networks.convnext import build_convnext, parse_convnext
from transfer.checkpoints.networks.timm_convnets import build_timm_convnet, is_timm_convnet
from transfer.checkpoints.networks.vit_architectures import parse_vit
from transfer.checkpoints.networks.vit_trunk import build_vit
from transfer.checkpoints.originals.resnet import pad_same
from transfer.checkpoints.weights import COUNTER, Weights


def build_frozen_backbone(weights: Weights) -> nn.Module:
    """Returns the trunk with strictly loaded weights, in eval mode and without gradients.

    Returns:
        a module with `.out_dim`; a ResNet also has `.stages` and `forward_stages`. Its `forward`
        takes what `weights.preprocess.apply` returns, (N, 3, H, W), and returns features (N, D).
        They are a ViT's class token after the last norm, or the mean of its patches if its name
        says so (see `vit_architectures`), and the mean of a ConvNeXt's last map after the last
        norm. Any other network of timm returns what timm pools.
    """
    backbone = build_trunk(weights.backbone, weights.architecture)
    missing, unexpected = backbone.load_state_dict(weights.state, strict=False)
    lost = [key for key in missing if not key.endswith(COUNTER)]
    assert not lost and not unexpected, f"not a {weights.backbone}: {lost} {unexpected}"
    return backbone.eval().requires_grad_(False)


def build_trunk(backbone: str, architecture: Mapping[str, Any]) -> nn.Module:
    """Returns an untrained trunk with the architecture of `Weights.architecture`."""
    vit = parse_vit(backbone)
    if vit is not None:
        return build_vit(vit, architecture)
    convnext = parse_convnext(backbone)
    if convnext is not None:
        return build_convnext(convnext, architecture)
    if is_timm_convnet(backbone):
        return build_timm_convnet(backbone)
    trunk = build_resnet(backbone)
    if architecture.get("stride_in_1x1"):
        stride_in_1x1(trunk)
    if architecture.get("padding"):
        _pad_as_tensorflow(trunk, convolutions=architecture["padding"] == "same")
    return trunk


def stride_in_1x1(network: nn.Module) -> None:
    """Moves each bottleneck's stride from its 3x3 to its first 1x1 convolution, as MSRA's have."""
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


class _SamePool(nn.MaxPool2d):
    """A ResNet's max pooling with TensorFlow's "SAME" padding."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad_same(x, 3, 2))


def _pad_as_tensorflow(trunk: Trunk, convolutions: bool) -> None:
    """Sets "SAME" padding for the pooling and, if requested, for convolutions with a stride."""
    if isinstance(trunk.maxpool, nn.MaxPool2d):
        trunk.maxpool = _SamePool()
    for module in trunk.modules() if convolutions else ():
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1 and module.kernel_size[0] > 1:
            module.padding = (0, 0)
            pad = partial(pad_same, kernel=module.kernel_size[0], stride=module.stride[0])
            module.register_forward_pre_hook(lambda _, inputs, pad=pad: (pad(inputs[0]),))


@torch.no_grad()
def padding_difference(weights: Weights, image: Tensor) -> float:
    """Returns how much torch's padding changes the pooled features, relative to the largest one.

    Args:
        image: (1, 3, H, W), preprocessed, of even sides.
    """
    exact = build_frozen_backbone(weights)(image)
    plain = {k: v for k, v in weights.architecture.items() if k != "padding"}
    moved = build_trunk(weights.backbone, plain)
    moved.load_state_dict(weights.state, strict=False)
    return float((moved.eval()(image) - exact).abs().max() / exact.abs().max())
