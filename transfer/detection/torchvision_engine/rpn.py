"""The region proposal network: it finds boxes that may hold an object, and learns to.

N images, L maps, A anchors per place, R = sum of H * W * A over maps, G ground-truth boxes.
Specification: Ren et al. 2015 as in detectron2 `modeling/proposal_generator/rpn.py` and
`proposal_utils.py`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.anchors import AnchorGenerator, AnchorSpec
from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.box_losses import (
    BoxLoss,
    BoxLossSpec,
    check_weight,
    weighted,
)
from transfer.detection.torchvision_engine.boxes import clip, nonempty, pairwise_iou
from transfer.detection.torchvision_engine.feature_map_checks import RPN_IN, check_named
from transfer.detection.torchvision_engine.layers import ConvNorm, init_normal
from transfer.detection.torchvision_engine.matching import IGNORE, check_thresholds, match, sample
from transfer.detection.torchvision_engine.places import nms_in_groups, places

# All layers of the head begin with it (Ren et al. 2015): the first proposals are close to their
# anchors.
INIT_STD = 0.01


@dataclass(frozen=True, kw_only=True)
class RPNSpec:
    """Has the keys of the node MODEL.RPN, and the anchors."""

    anchors: AnchorSpec
    in_features: tuple[str, ...]  # the backbone's maps that proposals are made on
    conv_dims: tuple[int, ...]  # one -1 per 3x3 convolution: it is as wide as its input
    # An anchor with a lower IoU than the first is background, from the second on it is an object.
    iou_thresholds: tuple[float, ...]
    # Anchors in the loss. Background would dominate a loss over all of them (Ren et al. 2015).
    batch_size_per_image: int
    positive_fraction: float  # the largest part of the sampled anchors that may have an object
    bbox_reg_weights: tuple[float, ...]  # factors of the deltas x, y, w, h
    box_loss: BoxLossSpec
    loss_weight: float  # factor of both losses in the detector's sum
    pre_nms_topk_train: int  # proposals per feature map
    pre_nms_topk_test: int
    post_nms_topk_train: int  # proposals per image
    post_nms_topk_test: int
    nms_thresh: float  # IoU above which the proposal with the lower score is dropped

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RPNSpec:
        """Reads the config; raises InputError for a value that has no RPN."""
        node = cfg.MODEL.RPN
        return cls(
            anchors=AnchorSpec.from_config(cfg),
            in_features=tuple(node.IN_FEATURES),
            conv_dims=tuple(node.CONV_DIMS),
            iou_thresholds=tuple(node.IOU_THRESHOLDS),
            batch_size_per_image=node.BATCH_SIZE_PER_IMAGE,
            positive_fraction=node.POSITIVE_FRACTION,
            bbox_reg_weights=tuple(node.BBOX_REG_WEIGHTS),
            box_loss=BoxLossSpec.from_config(cfg, "RPN"),
            loss_weight=node.LOSS_WEIGHT,
            pre_nms_topk_train=node.PRE_NMS_TOPK_TRAIN,
            pre_nms_topk_test=node.PRE_NMS_TOPK_TEST,
            post_nms_topk_train=node.POST_NMS_TOPK_TRAIN,
            post_nms_topk_test=node.POST_NMS_TOPK_TEST,
            nms_thresh=node.NMS_THRESH,
        )

    def __post_init__(self) -> None:
        """Raises InputError for a value that has no RPN."""
        check_named(RPN_IN, self.in_features)
        dims = list(self.conv_dims)
        if not dims or any(width != -1 for width in dims):
            raise InputError(
                f"MODEL.RPN.CONV_DIMS {dims} is not supported; give -1, once or several times"
            )
        check_thresholds("MODEL.RPN.IOU_THRESHOLDS", self.iou_thresholds, 2)
        check_weight("MODEL.RPN.LOSS_WEIGHT", self.loss_weight)
        self.anchors.rows(len(self.in_features))


class RPNHead(nn.Module):
    """Has 3x3 convolutions with ReLU, then 1x1 ones for logits and deltas. All maps share them.

    A single convolution is `conv`, several are `conv.conv0`, `conv.conv1`, ..., as upstream.
    """

    def __init__(self, channels: int, num_anchors: int, num_conv: int = 1) -> None:
        super().__init__()
        layers = [ConvNorm(channels, channels, 3, bias=True, relu=True) for _ in range(num_conv)]
        named = OrderedDict[str, nn.Module]()
        named.update((f"conv{index}", layer) for index, layer in enumerate(layers))
        self.conv = layers[0] if num_conv == 1 else nn.Sequential(named)
        self.objectness_logits = nn.Conv2d(channels, num_anchors, 1)
        self.anchor_deltas = nn.Conv2d(channels, num_anchors * 4, 1)
        for layer in (*layers, self.objectness_logits, self.anchor_deltas):
            init_normal(layer, INIT_STD)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns L logits (N, H*W*A) and L deltas (N, H*W*A, 4), of L maps (N, C, H, W)."""
        logits, deltas = [], []
        for feature in features:
            hidden = self.conv(feature)
            logits.append(self.objectness_logits(hidden).permute(0, 2, 3, 1).flatten(1))
            delta = self.anchor_deltas(hidden).unflatten(1, (-1, 4))  # (N, A, 4, H, W)
            deltas.append(delta.permute(0, 3, 4, 1, 2).flatten(1, -2))
        return logits, deltas


class RPN(nn.Module):
    """Contains the head and the anchors, and computes losses and proposals. The only child with
    weights is `rpn_head`.
    """

    def __init__(
        self, spec: RPNSpec, *, channels: Mapping[str, int], strides: Mapping[str, int]
    ) -> None:
        """Args: channels, strides: those of the backbone's maps, by name; strides in pixels."""
        super().__init__()
        self.spec = spec
        anchors = AnchorGenerator(spec.anchors, [strides[name] for name in spec.in_features])
        width = channels[spec.in_features[0]]
        self.rpn_head = RPNHead(width, anchors.num_anchors, len(spec.conv_dims))
        self.anchor_generator = anchors
        self.coder = BoxCoder(spec.bbox_reg_weights)
        self.box_loss = BoxLoss(spec.box_loss.kind, spec.box_loss.beta, self.coder)

    def forward(
        self,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        gt_boxes: Sequence[Tensor] = (),
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Returns N tensors of proposals (<= post_nms_topk, 4), best first, without gradient, and
        the losses, which are {} in evaluation.

        In training, boxes or scores that are not finite make loss_rpn_loc NaN, so that whoever
        looks at the losses stops.

        Args:
            features: L maps (N, C, H, W).
            image_sizes: N pairs (height, width).
            gt_boxes: N tensors (G, 4), in training.
        """
        anchors = self.anchor_generator(features)
        logits, deltas = self.rpn_head(features)
        losses: dict[str, Tensor] = {}
        if self.training:
            all_anchors = torch.cat(anchors)
            labels, targets = self.label_anchors(all_anchors, gt_boxes)
            losses = self.losses(
                torch.cat(logits, 1), torch.cat(deltas, 1), labels, targets, all_anchors
            )
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
        """Returns sampled labels (N, R) of 1, 0 and IGNORE, and what their loss compares with.

        The latter is (N, R, 4), see `BoxLoss.targets`, and has a meaning if the label is 1. The
        anchors are (R, 4), and the N ground truths (G, 4).
        """
        low, high = self.spec.iou_thresholds
        # Low quality is allowed: otherwise an object that no anchor fits well would never be
        # learned.
        matched_rows = [
            match(pairwise_iou(boxes, anchors), low=low, high=high, allow_low_quality=True)
            for boxes in gt_boxes
        ]
        drawn = sample(
            [labels for _, labels in matched_rows],
            size=self.spec.batch_size_per_image,
            positive_fraction=self.spec.positive_fraction,
            background=0,
        )
        all_labels, all_targets = [], []
        for boxes, (index, labels), (positive, negative) in zip(gt_boxes, matched_rows, drawn):
            sampled = torch.full_like(labels, IGNORE)
            sampled[positive] = 1
            sampled[negative] = 0
            matched = boxes[index] if len(boxes) else torch.zeros_like(anchors)
            all_labels.append(sampled)
            all_targets.append(self.box_loss.targets(anchors, matched))
        return torch.stack(all_labels), torch.stack(all_targets)

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, anchors: Tensor
    ) -> dict[str, Tensor]:
        """Returns scalar losses.

        Logits are (N, R), deltas (N, R, 4), labels (N, R), targets (N, R, 4) and anchors (R, 4).
        """
        used, positive = places([labels >= 0, labels == 1])
        classification = F.binary_cross_entropy_with_logits(
            logits[used], labels[used].to(torch.float32), reduction="sum"
        )
        localisation = self.box_loss(deltas[positive], targets[positive], anchors, positive[1])
        # A constant, also if fewer anchors were sampled: each weighs the same in every batch.
        normaliser = self.spec.batch_size_per_image * len(labels)
        weight = self.spec.loss_weight
        return {
            "loss_rpn_cls": weighted(classification / normaliser, weight),
            "loss_rpn_loc": weighted(localisation / normaliser, self.spec.box_loss.weight * weight),
        }

    def propose(
        self,
        anchors: Sequence[Tensor],
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> tuple[list[Tensor], Tensor]:
        """Returns the best boxes of every image after NMS within each map, and a bool () whether
        all boxes and scores were finite; those that are not are left out.
        """
        spec = self.spec
        topk = spec.pre_nms_topk_train if self.training else spec.pre_nms_topk_test
        boxes, scores, levels = [], [], []
        for number, (anchor, logit, delta) in enumerate(zip(anchors, logits, deltas)):
            score, index = logit.topk(min(logit.shape[1], topk), dim=1)
            delta = delta.gather(1, index[:, :, None].expand(-1, -1, 4))
            decoded = self.coder.decode(delta.reshape(-1, 4), anchor[index.reshape(-1)])
            boxes.append(decoded.view(*index.shape, 4))
            scores.append(score)
            levels.append(torch.full_like(index[0], number))
        level = torch.cat(levels)
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        finite = torch.isfinite(all_boxes).all(dim=2) & torch.isfinite(all_scores)
        return self._select(all_boxes, all_scores, finite, level, image_sizes), finite.all()

    def _select(
        self,
        boxes: Tensor,
        scores: Tensor,
        finite: Tensor,
        levels: Tensor,
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Returns N images' proposals; boxes (N, n, 4), scores, finiteness (N, n), maps (n,)."""
        clipped = [clip(image, size) for image, size in zip(boxes, image_sizes)]
        kept = places([good & nonempty(image) for good, image in zip(finite, clipped)])
        topk = self.spec.post_nms_topk_train if self.training else self.spec.post_nms_topk_test
        proposals = []
        for image, score, (rows,) in zip(clipped, scores, kept):
            image, score, level = image[rows], score[rows], levels[rows]
            # Within each map, as in the FPN's paper: maps answer for objects of different sizes.
            best = nms_in_groups(image.float(), score, level, self.spec.nms_thresh)
            proposals.append(image[best[:topk]])
        return proposals
