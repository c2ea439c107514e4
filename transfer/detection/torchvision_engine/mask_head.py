"""Mask head: features of boxes in, mask logits per class, their loss and probabilities out.

r boxes, C channels, P side of the pooled features, M = 2 * P side of the masks, K classes.
Specification: He et al. 2017 as in detectron2 `modeling/roi_heads/mask_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.detection.torchvision_engine.layers import ConvNorm, init_msra, init_normal
from transfer.detection.torchvision_engine.structures import RoiSample


class MaskHead(nn.Module):
    """`mask_fcn1`.. 3x3 convolutions, 2x2 stride-2 `deconv`, each with ReLU; 1x1 `predictor`."""

    def __init__(
        self, *, channels: int, num_conv: int, conv_dim: int, norm: str, num_classes: int
    ) -> None:
        super().__init__()
        self.convolutions: list[str] = []
        for index in range(num_conv):
            name = f"mask_fcn{index + 1}"
            bias = norm == ""
            self.add_module(name, ConvNorm(channels, conv_dim, 3, norm=norm, bias=bias, relu=True))
            self.convolutions.append(name)
            channels = conv_dim
        self.deconv = nn.ConvTranspose2d(channels, conv_dim, kernel_size=2, stride=2)
        self.predictor = nn.Conv2d(conv_dim, num_classes, 1)
        for name in self.convolutions:
            init_msra(getattr(self, name))
        init_msra(self.deconv)
        init_normal(self.predictor, 0.001)

    def forward(self, x: Tensor) -> Tensor:
        """(r, C, P, P) -> logits (r, K, M, M)."""
        for name in self.convolutions:
            x = getattr(self, name)(x)
        return self.predictor(F.relu(self.deconv(x)))


def mask_loss(logits: Tensor, samples: Sequence[RoiSample]) -> Tensor:
    """Mean binary cross-entropy of the true class's masks.

    Args:
        logits: (r, K, M, M) of all foreground boxes of the batch, image by image.
        samples: those boxes; r in all.
    """
    masks = [
        sample.targets.masks.crop(sample.gt_index, sample.boxes, logits.shape[-1])
        for sample in samples
        if len(sample.boxes)
    ]
    if not masks:
        return logits.sum() * 0  # keeps every parameter in the graph, as DDP needs
    classes = torch.cat([sample.classes for sample in samples])
    chosen = logits[torch.arange(len(classes), device=classes.device), classes]
    target = torch.cat(masks).to(torch.float32)
    return F.binary_cross_entropy_with_logits(chosen, target, reduction="mean")


def mask_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """(r, K, M, M), predicted classes (r,) -> their probabilities (r, M, M)."""
    return logits[torch.arange(len(classes), device=classes.device), classes].sigmoid()
