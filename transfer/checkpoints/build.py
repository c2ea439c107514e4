"""Weights in, a frozen backbone out."""

from __future__ import annotations

from torch import nn

from pretrain.backbones.resnet import build_resnet
from transfer.checkpoints.weights import COUNTER, Weights


def build_frozen_backbone(weights: Weights) -> nn.Module:
    """The trunk with the weights loaded strictly, in eval mode and without gradients.

    Returns:
        a module with `.out_dim`, `.stages`, `forward (N, 3, H, W) -> (N, D)` and
        `forward_stages`; its input is what `weights.preprocess.apply` returns.
    """
    backbone = build_resnet(weights.backbone)
    missing, unexpected = backbone.load_state_dict(weights.state, strict=False)
    lost = [key for key in missing if not key.endswith(COUNTER)]
    assert not lost and not unexpected, f"not a {weights.backbone}: {lost} {unexpected}"
    return backbone.eval().requires_grad_(False)
