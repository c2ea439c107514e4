"""The head of a linear probe of patch features: dropout, batch norm and a 1x1 convolution.

As in DINOv3 (dinov3/eval/segmentation/models/heads/linear_head.py there); DINOv2's has the dropout
between batch norm and convolution. The batch norm makes features of different scales equal, so that
one learning rate serves all networks.
"""

from __future__ import annotations

from torch import Tensor, nn


class LinearHead(nn.Module):
    """Applies dropout of whole channels, batch norm over all places of a batch, and a linear
    classifier.

    The classifier starts at normal numbers with a standard deviation of 0.01 and at bias 0.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.norm = nn.BatchNorm2d(in_channels)
        self.classifier = nn.Conv2d(in_channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps features (N, C, h', w') to scores (N, K, h', w')."""
        return self.classifier(self.norm(self.dropout(x)))
