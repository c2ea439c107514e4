"""The second stage turns pooled boxes into vectors, then scores and deltas, then detections.

r boxes of all images, K classes (background is class K), k detections of an image.
Specification: Girshick 2015 as in detectron2 `modeling/roi_heads/{box_head,fast_rcnn}.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.batchnorm import check_norm
from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.box_losses import BoxLoss, BoxLossSpec, weighted
from transfer.detection.torchvision_engine.boxes import clip
from transfer.detection.torchvision_engine.layers import (
    ConvNorm,
    init_msra,
    init_normal,
    init_xavier,
)
from transfer.detection.torchvision_engine.places import nms_in_groups, places
from transfer.detection.torchvision_engine.structures import BoxTargets, Detections


class BoxHead(nn.Module, ABC):
    """Is the interface of box heads: they turn the pooled features of each box into one vector."""

    out_dim: int  # length of the vectors

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Returns vectors (r, out_dim) of features (r, channels, resolution, resolution)."""


class BoxHeadSpec(ABC):
    """Is the interface of the specs of box heads; `BOX_HEADS` names them all."""

    @classmethod
    @abstractmethod
    def from_config(cls, cfg: CfgNode) -> BoxHeadSpec:
        """Reads the config; raises InputError for values that make no head."""

    @abstractmethod
    def build(self, channels: int, resolution: int) -> BoxHead:
        """Returns the head for features (r, channels, resolution, resolution), untrained."""


@dataclass(frozen=True, kw_only=True)
class ConvFCHeadSpec(BoxHeadSpec):
    """Has the keys of the layers of the box head FastRCNNConvFCHead (MODEL.ROI_BOX_HEAD.NAME)."""

    num_conv: int
    conv_dim: int  # channels of the convolutions
    num_fc: int
    fc_dim: int  # length of the vectors that each fully connected layer returns
    norm: str  # the norm after each convolution; "": none

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ConvFCHeadSpec:
        """Reads the config; raises InputError for a head without layers, or an unknown norm."""
        node = cfg.MODEL.ROI_BOX_HEAD
        return cls(
            num_conv=node.NUM_CONV,
            conv_dim=node.CONV_DIM,
            num_fc=node.NUM_FC,
            fc_dim=node.FC_DIM,
            norm=node.NORM,
        )

    def __post_init__(self) -> None:
        """Raises InputError for a head without layers, or an unknown norm."""
        check_norm("MODEL.ROI_BOX_HEAD.NORM", self.norm)
        if self.num_conv + self.num_fc == 0:
            raise InputError("MODEL.ROI_BOX_HEAD needs NUM_CONV or NUM_FC above 0")

    def build(self, channels: int, resolution: int) -> ConvFCHead:
        """See `BoxHeadSpec`."""
        return ConvFCHead(self, channels, resolution)


class ConvFCHead(BoxHead):
    """Has 3x3 convolutions `conv1`, ..., then linear layers `fc1`, ..., each with ReLU (2fc,
    4conv1fc).
    """

    def __init__(self, spec: ConvFCHeadSpec, channels: int, resolution: int) -> None:
        super().__init__()
        self.convolutions, self.linears = [], []
        bias = spec.norm == ""  # a norm that follows would cancel it
        for index in range(spec.num_conv):
            layer = ConvNorm(channels, spec.conv_dim, 3, norm=spec.norm, bias=bias, relu=True)
            self.add_module(f"conv{index + 1}", layer)
            self.convolutions.append(f"conv{index + 1}")
            channels = spec.conv_dim
        size = channels * resolution * resolution
        for index in range(spec.num_fc):
            self.add_module(f"fc{index + 1}", nn.Linear(size, spec.fc_dim))
            self.linears.append(f"fc{index + 1}")
            size = spec.fc_dim
        self.out_dim = size
        # After all layers are made: the draws are then Detectron2's for a seed.
        for name in self.convolutions:
            init_msra(getattr(self, name))
        for name in self.linears:
            init_xavier(getattr(self, name))

    def forward(self, x: Tensor) -> Tensor:
        """See `BoxHead`."""
        for name in self.convolutions:
            x = getattr(self, name)(x)
        x = x.flatten(start_dim=1)
        for name in self.linears:
            x = F.relu(getattr(self, name)(x))
        return x


# The spec that reads the keys of a box head, by MODEL.ROI_BOX_HEAD.NAME.
BOX_HEADS: dict[str, type[BoxHeadSpec]] = {"FastRCNNConvFCHead": ConvFCHeadSpec}


def find_box_head(name: str, heads: str) -> type[BoxHeadSpec]:
    """Returns the spec that reads the keys of the box head `name` in MODEL.ROI_HEADS.NAME `heads`.

    Raises InputError for an unknown name.
    """
    if name not in BOX_HEADS:
        raise InputError(
            f"MODEL.ROI_BOX_HEAD.NAME {name!r} is not supported with MODEL.ROI_HEADS.NAME {heads}; "
            f"set {' or '.join(BOX_HEADS)}"
        )
    return BOX_HEADS[name]


@dataclass(frozen=True, kw_only=True)
class BoxPredictorSpec:
    """Has the keys of MODEL.ROI_HEADS, .ROI_BOX_HEAD and TEST that turn vectors into detections."""

    # Factors of the deltas x, y, w, h. The usual 10, 10, 5, 5 are the inverse of their spread over
    # the proposals of an object, so that targets have about unit variance.
    bbox_reg_weights: tuple[float, ...]
    # True: a region has one box for all classes. Girshick's has one for each class; a cascade
    # refines a box before its class is known (Cai & Vasconcelos 2018, section 3.1).
    class_agnostic: bool
    # True: each class's score is a sigmoid of its own logit, so a region may have several classes,
    # as in LVIS, whose classes overlap. False: the scores of a region sum to 1.
    sigmoid: bool
    box_loss: BoxLossSpec
    score_thresh: float
    nms_thresh: float  # IoU above which the lower score of two boxes of a class is dropped
    detections_per_image: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> BoxPredictorSpec:
        """Reads the config."""
        return cls(
            bbox_reg_weights=tuple(cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            class_agnostic=cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG,
            sigmoid=cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE,
            box_loss=BoxLossSpec.from_config(cfg, "ROI_BOX_HEAD"),
            score_thresh=cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            nms_thresh=cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        )


class BoxPredictor(nn.Module):
    """Contains `cls_score` (K + 1 logits) and `bbox_pred` (4 deltas for each of B boxes of a
    region: one per class, or one for all).
    """

    def __init__(self, spec: BoxPredictorSpec, *, inputs: int, num_classes: int) -> None:
        """Args: inputs: length of the vectors."""
        super().__init__()
        self.spec = spec
        self.cls_score = nn.Linear(inputs, num_classes + 1)
        self.num_boxes = 1 if spec.class_agnostic else num_classes
        self.bbox_pred = nn.Linear(inputs, self.num_boxes * 4)
        # Girshick 2015, section 2.3. Small deltas: the first boxes are the proposals themselves.
        init_normal(self.cls_score, 0.01)
        init_normal(self.bbox_pred, 0.001)
        self.num_classes = num_classes
        self.coder = BoxCoder(spec.bbox_reg_weights)
        self.box_loss = BoxLoss(spec.box_loss.kind, spec.box_loss.beta, self.coder)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits (r, K + 1) and deltas (r, 4 * B) of vectors (r, inputs)."""
        return self.cls_score(x), self.bbox_pred(x)

    def losses(self, logits: Tensor, deltas: Tensor, truth: BoxTargets) -> dict[str, Tensor]:
        """Returns loss_cls and loss_box_reg of the sampled boxes.

        The logits are (r, K + 1), the deltas (r, 4 * B). loss_cls is the mean over the boxes of the
        cross-entropy, or with sigmoids of the sum of K binary ones; loss_box_reg is the distance of
        the true class's box.
        """
        classes, rows = truth.classes, truth.foreground
        if self.num_boxes > 1:
            predicted = deltas.view(-1, self.num_boxes, 4)[rows, classes[rows]]
        else:
            predicted = deltas[rows]
        wanted = self.box_loss.targets(truth.boxes[rows], truth.gt_boxes[rows])
        # Divided by all r boxes, not by those in the foreground: each of these then weighs the
        # same, whether its image has one or many.
        distance = self.box_loss(predicted, wanted, truth.boxes, rows) / max(classes.numel(), 1.0)
        return {
            "loss_cls": self._class_loss(logits, classes),
            "loss_box_reg": weighted(distance, self.spec.box_loss.weight),
        }

    def _class_loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        if not classes.numel():
            return logits.sum() * 0.0  # the mean would be NaN; parameters stay in the graph
        if not self.spec.sigmoid:
            return F.cross_entropy(logits, classes)
        # The background is the absence of all classes, so its logit is not trained.
        wanted = F.one_hot(classes, self.num_classes + 1)[:, :-1].to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, :-1], wanted, reduction="none")
        return each.sum() / len(classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns scores in [0, 1], (r, K + 1), of logits (r, K + 1)."""
        return logits.sigmoid() if self.spec.sigmoid else F.softmax(logits, dim=-1)

    def decode(self, deltas: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns the N images' refined boxes (n, 4 * B); deltas (r, 4 * B), boxes (n, 4)."""
        counts = [len(image) for image in boxes]
        return self.coder.decode(deltas, torch.cat(list(boxes))).split(counts)

    def boxes_of_true_classes(
        self, deltas: Tensor, boxes: Sequence[Tensor], classes: Tensor
    ) -> tuple[Tensor, ...]:
        """Returns the refined box of each box's true class, N tensors (n, 4); `classes` are (r,).

        A box of background is refined as one of the last class. The deltas are (r, 4 * B), the
        boxes those of N images, (n, 4).
        """
        counts = [len(image) for image in boxes]
        refined = self.coder.decode(deltas, torch.cat(list(boxes)))
        if self.num_boxes > 1:
            rows = torch.arange(len(refined), device=refined.device)
            last = self.num_boxes - 1
            refined = refined.view(-1, self.num_boxes, 4)[rows, classes.clamp(0, last)]
        return refined.split(counts)

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        """Returns the N images' detections; logits (r, K + 1), deltas (r, 4 * B)."""
        boxes = self.decode(deltas, proposals)
        scores = self.probabilities(logits).split([len(image) for image in proposals])
        return [self.select(*image) for image in zip(boxes, scores, image_sizes)]

    def select(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """Returns the best boxes after NMS per class; boxes (n, 4 * B), scores (n, K + 1)."""
        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
        scores = scores[:, :-1]  # without the background's
        boxes = clip(boxes.reshape(-1, 4), size).view(-1, self.num_boxes, 4)
        ((rows, classes),) = places([(scores > self.spec.score_thresh) & finite[:, None]])
        boxes = boxes[rows, classes] if self.num_boxes > 1 else boxes[rows, 0]
        scores = scores[rows, classes]
        kept = nms_in_groups(boxes.float(), scores, classes, self.spec.nms_thresh)
        kept = kept[: self.spec.detections_per_image]
        return Detections(boxes[kept], scores[kept], classes[kept])
