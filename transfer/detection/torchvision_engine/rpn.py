"""Region proposal network: feature maps and ground truth in, proposals and two losses out.

N images, L maps, A anchors per place, R = sum of H * W * A over maps, G ground-truth boxes.
Specification: Ren et al. 2015 as in detectron2 `modeling/proposal_generator/rpn.py` and
`proposal_utils.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from transfer.detection.torchvision_engine.anchors import AnchorGenerator
from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.boxes import clip, nonempty, pairwise_iou
from transfer.detection.torchvision_engine.layers import ConvNorm, init_normal
from transfer.detection.torchvision_engine.matching import IGNORE, match, sample


class RPNHead(nn.Module):
    """3x3 convolutions with ReLU, then 1x1 logits and deltas; the same for every map.

    A single convolution is `conv`, several are `conv.conv0`, `conv.conv1`, ..., as upstream.
    """

    def __init__(self, channels: int, num_anchors: int, num_conv: int = 1) -> None:
        super().__init__()
        layers = [ConvNorm(channels, channels, 3, bias=True, relu=True) for _ in range(num_conv)]
        self.conv = layers[0] if num_conv == 1 else nn.Sequential()
        if num_conv > 1:
            for index, layer in enumerate(layers):
                self.conv.add_module(f"conv{index}", layer)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for layer in (*layers, self.objectness_logits, self.anchor_deltas):
            init_normal(layer, 0.01)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """L maps (N, C, H, W) -> L logits (N, H*W*A) and L deltas (N, H*W*A, 4)."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            delta = self.anchor_deltas(hidden).unflatten(1, (-1, 4))  # (N, A, 4, H, W)
            deltas.append(delta.permute(0, 3, 4, 1, 2).flatten(1, -2))
        return logits, deltas


class RPN(nn.Module):
    """Head, anchors, losses and proposals. The only child with weights is `rpn_head`."""

    def __init__(
        self,
        *,
        channels: int,
        anchors: AnchorGenerator,
        coder: BoxCoder,
        iou_thresholds: tuple[float, float],
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_topk: dict[bool, int],
        post_nms_topk: dict[bool, int],
        nms_thresh: float,
        num_conv: int = 1,
    ) -> None:
        """Args: pre_nms_topk (per map), post_nms_topk (per image): by self.training."""
        super().__init__()
        self.rpn_head = RPNHead(channels, anchors.num_anchors, num_conv)
        self.anchor_generator = anchors
        self.coder = coder
        self.iou_thresholds = iou_thresholds
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.pre_nms_topk, self.post_nms_topk = pre_nms_topk, post_nms_topk
        self.nms_thresh = nms_thresh

    def forward(
        self,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        gt_boxes: Sequence[Tensor] | None = None,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """L maps (N, C, H, W), N sizes (height, width), in training N ground truths (G, 4)
        -> N proposals (<= post_nms_topk, 4), best first, without gradient; losses, {} in eval.

        In training boxes or scores that are not finite make loss_rpn_loc NaN, so that whoever
        looks at the losses stops."""
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        losses: dict[str, Tensor] = {}
        if self.training:
            labels, targets = self.label_anchors(torch.cat(anchors), gt_boxes)
            losses = self.losses(torch.cat(logits, 1), torch.cat(deltas, 1), labels, targets)
        with torch.no_grad():
            proposals, finite = self.propose(anchors, logits, deltas, image_sizes)
        if self.training:
            # Not an error here: the loop looks at the losses of all processes, and stops them all.
            # A sum with a constant, so that finite boxes change neither value nor gradient.
            addend = torch.zeros_like(losses["loss_rpn_loc"]).masked_fill(~finite, math.nan)
            losses["loss_rpn_loc"] = losses["loss_rpn_loc"] + addend
        return proposals, losses

    @torch.no_grad()
    def label_anchors(self, anchors: Tensor, gt_boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Anchors (R, 4), N ground truths (G, 4) -> sampled labels (N, R) of 1, 0 and IGNORE, and
        the deltas (N, R, 4) that lead to the matched ground truth, of use where the label is 1."""
        low, high = self.iou_thresholds
        all_labels, all_targets = [], []
        for boxes in gt_boxes:
            iou = pairwise_iou(boxes, anchors)
            index, labels = match(iou, low=low, high=high, allow_low_quality=True)
            positive, negative = sample(
                labels,
                size=self.batch_size_per_image,
                positive_fraction=self.positive_fraction,
                background=0,
            )
            sampled = torch.full_like(labels, IGNORE)
            sampled[positive] = 1
            sampled[negative] = 0
            matched = boxes[index] if len(boxes) else torch.zeros_like(anchors)
            all_labels.append(sampled)
            all_targets.append(self.coder.encode(anchors, matched))
        return torch.stack(all_labels), torch.stack(all_targets)

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """Logits (N, R), deltas (N, R, 4), labels (N, R), targets (N, R, 4) -> scalar losses.

        Both are sums divided by batch_size_per_image * N, also where fewer anchors were sampled.
        """
        used, positive = labels >= 0, labels == 1
        classification = F.binary_cross_entropy_with_logits(
            logits[used], labels[used].to(torch.float32), reduction="sum"
        )
        localisation = (deltas[positive] - targets[positive]).abs().sum()
        normaliser = self.batch_size_per_image * len(labels)
        return {
            "loss_rpn_cls": classification / normaliser,
            "loss_rpn_loc": localisation / normaliser,
        }

    def propose(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], Tensor]:
        """The best boxes of every image after NMS within each map, and a bool () whether all boxes
        and scores were finite; those that are not are left out."""
        topk = self.pre_nms_topk[self.training]
        boxes, scores, levels = [], [], []
        for level, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            score, index = logit.topk(min(logit.shape[1], topk), dim=1)
            delta = delta.gather(1, index[:, :, None].expand(-1, -1, 4))
            decoded = self.coder.decode(delta.reshape(-1, 4), anchor[index.reshape(-1)])
            boxes.append(decoded.view(*index.shape, 4))
            scores.append(score)
            levels.append(torch.full_like(index[0], level))
        level = torch.cat(levels)
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        finite = torch.isfinite(all_boxes).all(dim=2) & torch.isfinite(all_scores)
        proposals = [
            self._select(*image, level, size)
            for *image, size in zip(all_boxes, all_scores, finite, image_sizes)
        ]
        return proposals, finite.all()

    def _select(
        self,
        boxes: Tensor,
        scores: Tensor,
        finite: Tensor,
        levels: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        boxes = clip(boxes, size)
        keep = finite & nonempty(boxes)
        boxes, scores, levels = boxes[keep], scores[keep], levels[keep]
        kept = batched_nms(boxes.float(), scores, levels, self.nms_thresh)
        return boxes[kept[: self.post_nms_topk[self.training]]]
