"""UPerNet's head: pyramid pooling on the coarsest map, then a feature pyramid whose maps are fused.

The article is Xiao et al. 2018, Unified Perceptual Parsing (arXiv 1807.10221, figure 4). Of its
heads, this is the one for objects, as mmseg's decode_heads/uper_head.py has it, with which
tests/transfer/segmentation/test_against_mmseg.py compares it. The steps:

1. Pyramid pooling (PPM, of PSPNet): the coarsest map is averaged over grids of 1, 2, 3 and 6 cells
   a side. Each average gets a 1x1 convolution and is resized to the map, and a 3x3 convolution
   takes all of them together with the map.
2. Top-down: each finer map gets a 1x1 convolution (lateral), and the next coarser result, resized,
   is added.
3. Fusion: a 3x3 convolution follows on each finer map; all are resized to the finest, concatenated,
   and go through one more 3x3 convolution.
4. Dropout of whole channels and a 1x1 classifier.

Legend: N images, C channels, K classes; h, w places of the finest map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.segmentation.convolution import convolution

POOLED_SIDES = (1, 2, 3, 6)


class UperHead(nn.Module):
    """Maps features of several strides, the finest first, to scores at the finest."""

    def __init__(
        self,
        widths: Sequence[int],
        channels: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        align_corners: bool = False,
    ) -> None:
        """Args: widths: channels of each map. channels: width of each convolution's output."""
        super().__init__()
        *finer, coarsest = widths
        self.align_corners = align_corners
        self.pooled = nn.ModuleList(convolution(coarsest, channels, 1) for _ in POOLED_SIDES)
        self.after_pooling = convolution(coarsest + len(POOLED_SIDES) * channels, channels)
        self.laterals = nn.ModuleList(convolution(width, channels, 1) for width in finer)
        self.smoothing = nn.ModuleList(convolution(channels, channels) for _ in finer)
        self.fusion = convolution(len(widths) * channels, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [(N, widths[i], h_i, w_i)] to scores (N, K, h, w)."""
        results = [lateral(finer) for lateral, finer in zip(self.laterals, maps[:-1])]
        results.append(self.pool(maps[-1]))
        for level in reversed(range(len(results) - 1)):
            results[level] = results[level] + self._resize(results[level + 1], results[level])
        smooth = [layer(result) for layer, result in zip(self.smoothing, results[:-1])]
        smooth.append(results[-1])
        together = torch.cat([self._resize(result, smooth[0]) for result in smooth], dim=1)
        return self.classifier(self.dropout(self.fusion(together)))

    def pool(self, coarsest: Tensor) -> Tensor:
        """Pools a map in the way of PSPNet's pyramid: (N, widths[-1], h', w') becomes (N, channels,
        h', w').
        """
        parts = [coarsest]
        for side, layer in zip(POOLED_SIDES, self.pooled):
            parts.append(self._resize(layer(F.adaptive_avg_pool2d(coarsest, side)), coarsest))
        return self.after_pooling(torch.cat(parts, dim=1))

    def _resize(self, x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[-2:]
        return F.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
