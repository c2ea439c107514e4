"""Box head and predictor: features of boxes in, scores and deltas, losses, detections out.

r boxes of all images, K classes (background is class K), k detections of an image.
Specification: Girshick 2015 as in detectron2 `modeling/roi_heads/{box_head,fast_rcnn}.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.boxes import clip
from transfer.detection.torchvision_engine.layers import (
    ConvNorm,
    init_msra,
    init_normal,
    init_xavier,
)
from transfer.detection.torchvision_engine.structures import Detections, RoiSample


class ConvFCHead(nn.Module):
    """`conv1`.. 3x3 convolutions, then `fc1`.. linear layers, each with ReLU (2fc, 4conv1fc)."""

    def __init__(
        self,
        *,
        channels: int,
        resolution: int,
        num_conv: int,
        conv_dim: int,
        num_fc: int,
        fc_dim: int,
        norm: str,
    ) -> None:
        super().__init__()
        self.convolutions, self.linears = [], []
        for index in range(num_conv):
            bias = norm == ""
            layer = ConvNorm(channels, conv_dim, 3, norm=norm, bias=bias, relu=True)
            self.add_module(f"conv{index + 1}", layer)
            self.convolutions.append(f"conv{index + 1}")
            channels = conv_dim
        size = channels * resolution * resolution
        for index in range(num_fc):
            self.add_module(f"fc{index + 1}", nn.Linear(size, fc_dim))
            self.linears.append(f"fc{index + 1}")
            size = fc_dim
        self.out_dim = size
        for name in self.convolutions:
            init_msra(getattr(self, name))
        for name in self.linears:
            init_xavier(getattr(self, name))

    def forward(self, x: Tensor) -> Tensor:
        """(r, channels, resolution, resolution) -> (r, out_dim)."""
        for name in self.convolutions:
            x = getattr(self, name)(x)
        x = x.flatten(start_dim=1)
        for name in self.linears:
            x = F.relu(getattr(self, name)(x))
        return x


class BoxPredictor(nn.Module):
    """`cls_score` (K + 1 logits) and `bbox_pred` (4 deltas for each of K classes)."""

    def __init__(
        self,
        *,
        inputs: int,
        num_classes: int,
        coder: BoxCoder,
        score_thresh: float,
        nms_thresh: float,
        detections_per_image: int,
    ) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, num_classes + 1)
        self.bbox_pred = nn.Linear(inputs, num_classes * 4)
        init_normal(self.cls_score, 0.01)
        init_normal(self.bbox_pred, 0.001)
        self.num_classes = num_classes
        self.coder = coder
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_image = detections_per_image

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(r, inputs) -> logits (r, K + 1), deltas (r, 4 * K)."""
        return self.cls_score(x), self.bbox_pred(x)

    def losses(
        self, logits: Tensor, deltas: Tensor, samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of all r boxes; L1 of the true class's deltas, divided by r as well,
        not by the number of foreground boxes."""
        classes = torch.cat([sample.classes for sample in samples])
        boxes = torch.cat([sample.boxes for sample in samples])
        gt_boxes = torch.cat([sample.gt_boxes for sample in samples])
        foreground = torch.nonzero((classes >= 0) & (classes < self.num_classes)).squeeze(1)
        predicted = deltas.view(-1, self.num_classes, 4)[foreground, classes[foreground]]
        wanted = self.coder.encode(boxes[foreground], gt_boxes[foreground])
        count = max(classes.numel(), 1.0)
        # A mean over nothing would be NaN; the product keeps the parameters in the graph.
        loss_cls = F.cross_entropy(logits, classes) if classes.numel() else logits.sum() * 0.0
        return {"loss_cls": loss_cls, "loss_box_reg": (predicted - wanted).abs().sum() / count}

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Logits (r, K + 1) and deltas (r, 4 * K) of N images' proposals -> N detections."""
        counts = [len(boxes) for boxes in proposals]
        boxes = self.coder.decode(deltas, torch.cat(list(proposals))).split(counts)
        scores = F.softmax(logits, dim=-1).split(counts)
        return [self._select(*image) for image in zip(boxes, scores, image_sizes)]

    def _select(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """Boxes (n, 4 * K), scores (n, K + 1) of one image -> the best after NMS per class."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        if not finite.all():
            boxes, scores = boxes[finite], scores[finite]
        scores = scores[:, :-1]
        boxes = clip(boxes.reshape(-1, 4), size).view(-1, self.num_classes, 4)
        found = scores > self.score_thresh
        classes = found.nonzero()[:, 1]
        boxes, scores = boxes[found], scores[found]
        kept = batched_nms(boxes.float(), scores, classes, self.nms_thresh)
        kept = kept[: self.detections_per_image]
        return Detections(boxes[kept], scores[kept], classes[kept])
