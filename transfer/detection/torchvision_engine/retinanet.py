"""RetinaNet, a detector of one stage: every anchor of a pyramid is classified and refined at once.

N images, L maps, A anchors per place, R = sum of H * W * A over maps, K classes without a
background. Nearly all anchors are background: the focal loss lets those that are told well weigh
little, so that none need be left out. Specification: Lin et al. 2017b (figure 3) as in detectron2
`modeling/meta_arch/{retinanet,dense_detector}.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass
from transfer.detection.torchvision_engine.anchors import AnchorGenerator, AnchorSpec
from transfer.detection.torchvision_engine.architectures import architecture
from transfer.detection.torchvision_engine.batchnorm import make_norm
from transfer.detection.torchvision_engine.box_coding import BoxCoder
from transfer.detection.torchvision_engine.box_losses import BoxLoss, check_box_loss
from transfer.detection.torchvision_engine.boxes import pairwise_iou
from transfer.detection.torchvision_engine.detector import BACKBONES, BaseDetector, BaseSpec
from transfer.detection.torchvision_engine.feature_map_checks import (
    check_known,
    check_named,
)
from transfer.detection.torchvision_engine.fpn import FPNSpec
from transfer.detection.torchvision_engine.layers import init_normal
from transfer.detection.torchvision_engine.matching import IGNORE, check_thresholds, match
from transfer.detection.torchvision_engine.places import nms_in_groups, places
from transfer.detection.torchvision_engine.structures import Detections, Targets

SECTION = "MODEL.RETINANET"
IN_FEATURES = f"{SECTION}.IN_FEATURES"
NORMS = ("", "GN", "LN")
INIT_STD = 0.01  # all layers of the head begin with it (Lin et al. 2017b, section 4.1)
# The losses' divisor is a running mean of the number of anchors with an object: that of one small
# batch jumps.
FIRST_DIVISOR, DIVISOR_MOMENTUM = 100.0, 0.9


@dataclass(frozen=True, kw_only=True)
class RetinaNetSpec(BaseSpec):
    """Describes the detector with one stage: MODEL.META_ARCHITECTURE RetinaNet and the node
    MODEL.RETINANET.
    """

    backbone: FPNSpec
    anchors: AnchorSpec
    in_features: tuple[str, ...]  # the pyramid's maps
    num_classes: int
    num_convs: int  # convolutions in each of the two branches
    norm: str  # the norm after each of these convolutions; "": none
    prior_prob: float  # probability of every class at every anchor before training
    # An anchor with a lower IoU than the first is background, from the second on it is an object.
    iou_thresholds: tuple[float, ...]
    bbox_reg_weights: tuple[float, ...]  # factors of the deltas x, y, w, h
    focal_loss_gamma: float
    focal_loss_alpha: float  # weight of an object's class; all others have one minus it
    box_loss: str  # "smooth_l1", "giou", "diou" or "ciou"
    box_loss_beta: float
    score_thresh: float
    topk_candidates: int  # boxes per map before NMS
    nms_thresh: float  # IoU above which the lower score of two boxes of a class is dropped
    detections_per_image: int

    @classmethod
    def from_config(cls, cfg: CfgNode, highpass: HighPass | None = None) -> RetinaNetSpec:
        """Reads the config; raises InputError, naming the key, for what no RetinaNet can be."""
        node, kind = cfg.MODEL.RETINANET, architecture(cfg)
        if kind != "FPN":
            raise InputError(
                "MODEL.META_ARCHITECTURE RetinaNet does not work with MODEL.BACKBONE.NAME "
                f"{cfg.MODEL.BACKBONE.NAME}; set build_retinanet_resnet_fpn_backbone"
            )
        for key in ("MASK_ON", "KEYPOINT_ON"):
            if cfg.MODEL[key]:
                raise InputError(f"MODEL.{key} True needs MODEL.META_ARCHITECTURE GeneralizedRCNN")
        backbone = BACKBONES[kind].from_config(cfg)
        assert isinstance(backbone, FPNSpec)
        return cls(
            backbone=backbone,
            pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
            pixel_std=tuple(cfg.MODEL.PIXEL_STD),
            highpass=highpass,
            anchors=AnchorSpec.from_config(cfg),
            in_features=tuple(node.IN_FEATURES),
            num_classes=node.NUM_CLASSES,
            num_convs=node.NUM_CONVS,
            norm=node.NORM,
            prior_prob=node.PRIOR_PROB,
            iou_thresholds=tuple(node.IOU_THRESHOLDS),
            bbox_reg_weights=tuple(node.BBOX_REG_WEIGHTS),
            focal_loss_gamma=node.FOCAL_LOSS_GAMMA,
            focal_loss_alpha=node.FOCAL_LOSS_ALPHA,
            box_loss=node.BBOX_REG_LOSS_TYPE,
            box_loss_beta=node.SMOOTH_L1_LOSS_BETA,
            score_thresh=node.SCORE_THRESH_TEST,
            topk_candidates=node.TOPK_CANDIDATES_TEST,
            nms_thresh=node.NMS_THRESH_TEST,
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    def __post_init__(self) -> None:
        """Raises InputError, naming the key, for what no RetinaNet can be."""
        check_named(IN_FEATURES, self.in_features)
        check_known(IN_FEATURES, self.in_features, self.backbone.maps)
        if self.norm not in NORMS:
            # Detectron2 gives each map its own statistics there.
            known = ", ".join(map(repr, NORMS))
            raise InputError(f"{SECTION}.NORM {self.norm!r} is not supported; known: {known}")
        check_thresholds(f"{SECTION}.IOU_THRESHOLDS", self.iou_thresholds, 2)
        losses: dict[str, str | float]
        losses = {"BBOX_REG_LOSS_TYPE": self.box_loss, "SMOOTH_L1_LOSS_BETA": self.box_loss_beta}
        check_box_loss(SECTION, {**losses, "FOCAL_LOSS_GAMMA": self.focal_loss_gamma})
        for key, value in (
            ("PRIOR_PROB", self.prior_prob),
            ("FOCAL_LOSS_ALPHA", self.focal_loss_alpha),
        ):
            if not 0 < value < 1:
                raise InputError(f"{SECTION}.{key} {value} must be between 0 and 1")
        for key, count, least in (
            ("NUM_CLASSES", self.num_classes, 1),
            ("NUM_CONVS", self.num_convs, 0),
            ("TOPK_CANDIDATES_TEST", self.topk_candidates, 1),
        ):
            if count < least:
                raise InputError(f"{SECTION}.{key} must be {least} or above, got {count}")
        self.anchors.rows(len(self.in_features), IN_FEATURES)

    def build(self) -> RetinaNet:
        """See `BaseSpec`."""
        return RetinaNet(self)


class RetinaNetHead(nn.Module):
    """Has two branches of 3x3 convolutions with ReLU, `cls_subnet` and `bbox_subnet`, which end in
    `cls_score` and `bbox_pred`. All maps share them.
    """

    def __init__(self, spec: RetinaNetSpec, channels: int, num_anchors: int) -> None:
        super().__init__()
        branches: list[list[nn.Module]] = [[], []]
        for _ in range(spec.num_convs):
            for layers in branches:  # in turn, as upstream: a seed draws the same weights
                layers.append(nn.Conv2d(channels, channels, 3, padding=1))
                norm = make_norm(spec.norm, channels)
                layers += [nn.ReLU()] if norm is None else [norm, nn.ReLU()]
        self.cls_subnet, self.bbox_subnet = (nn.Sequential(*layers) for layers in branches)
        self.num_classes = spec.num_classes
        self.cls_score = nn.Conv2d(channels, num_anchors * spec.num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        for part in (self.cls_subnet, self.bbox_subnet, self.cls_score, self.bbox_pred):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    init_normal(layer, INIT_STD)
        # Otherwise the many anchors of the background would make the first loss huge (section 3.3).
        prior = -math.log((1 - spec.prior_prob) / spec.prior_prob)
        nn.init.constant_(self.cls_score.bias, prior)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns L logits (N, H*W*A, K) and L deltas (N, H*W*A, 4), of L maps (N, C, H, W)."""
        logits, deltas = [], []
        for feature in features:
            scores = self.cls_score(self.cls_subnet(feature))
            logits.append(_by_anchor(scores, self.num_classes))
            deltas.append(_by_anchor(self.bbox_pred(self.bbox_subnet(feature)), 4))
        return logits, deltas


def _by_anchor(values: Tensor, count: int) -> Tensor:
    """Returns (N, H * W * A, count) of (N, A * count, H, W)."""
    split = values.unflatten(1, (-1, count))
    return split.permute(0, 3, 4, 1, 2).flatten(1, 3)


class RetinaNet(BaseDetector):
    """Has the children `backbone` and `head`: the state dict is Detectron2's. The losses are
    loss_cls and loss_box_reg.

    Attributes:
        running: the losses' divisor, a running mean of this process. It is not in the state dict,
            as in Detectron2; a run's checkpoints keep it separately.
    """

    spec: RetinaNetSpec

    def __init__(self, spec: RetinaNetSpec) -> None:
        super().__init__(spec, spec.in_features)
        self.spec = spec
        strides = [self.backbone.strides[name] for name in spec.in_features]
        self.anchor_generator = AnchorGenerator(spec.anchors, strides)
        width = self.backbone.channels[spec.in_features[0]]
        self.head = RetinaNetHead(spec, width, self.anchor_generator.num_anchors)
        self.coder = BoxCoder(spec.bbox_reg_weights)
        self.box_loss = BoxLoss(spec.box_loss, spec.box_loss_beta, self.coder)
        self.running = {"divisor": FIRST_DIVISOR}

    def losses(
        self,
        features: dict[str, Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """See `BaseDetector`."""
        maps = [features[name] for name in self.spec.in_features]
        logits, deltas = self.head(maps)
        anchors = torch.cat(self.anchor_generator(maps))
        classes, wanted = self.label_anchors(anchors, targets)
        return self.losses_of(torch.cat(logits, 1), torch.cat(deltas, 1), classes, wanted, anchors)

    @torch.no_grad()
    def label_anchors(self, anchors: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        """Returns the class of each of R anchors, int64 (N, R), and what its loss compares with.

        The class is K for background and IGNORE for neither. What is compared is (N, R, 4), see
        `BoxLoss.targets`. The anchors are (R, 4), and `targets` are N ground truths.
        """
        low, high = self.spec.iou_thresholds
        all_classes, all_wanted = [], []
        for truth in targets:
            index, labels = match(
                pairwise_iou(truth.boxes, anchors), low=low, high=high, allow_low_quality=True
            )
            if len(truth.boxes):
                classes, matched = truth.classes[index], truth.boxes[index]
                classes[labels == 0] = self.spec.num_classes
                classes[labels == IGNORE] = IGNORE
            else:
                classes = torch.full_like(index, self.spec.num_classes)
                matched = torch.zeros_like(anchors)
            all_classes.append(classes)
            all_wanted.append(self.box_loss.targets(anchors, matched))
        return torch.stack(all_classes), torch.stack(all_wanted)

    def losses_of(
        self, logits: Tensor, deltas: Tensor, classes: Tensor, wanted: Tensor, anchors: Tensor
    ) -> dict[str, Tensor]:
        """Returns scalar losses, divided by the running mean of how many anchors have an object.

        Logits are (N, R, K), deltas (N, R, 4), classes (N, R), wanted (N, R, 4), anchors (R, 4).
        """
        spec = self.spec
        valid = classes != IGNORE
        used, positive = places([valid, valid & (classes != spec.num_classes)])
        count = max(len(positive[0]), 1)
        divisor = self.running["divisor"] * DIVISOR_MOMENTUM + count * (1 - DIVISOR_MOMENTUM)
        self.running["divisor"] = divisor
        one_hot = F.one_hot(classes[used], spec.num_classes + 1)[:, :-1].to(logits.dtype)
        loss_cls = sigmoid_focal_loss(
            logits[used].float(),
            one_hot.float(),
            alpha=spec.focal_loss_alpha,
            gamma=spec.focal_loss_gamma,
            reduction="sum",
        )
        loss_box = self.box_loss(deltas[positive], wanted[positive], anchors, positive[1])
        return {"loss_cls": loss_cls / divisor, "loss_box_reg": loss_box / divisor}

    def find(
        self, features: dict[str, Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """See `BaseDetector`."""
        maps = [features[name] for name in self.spec.in_features]
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(maps)
        return [
            self._find_in_image(
                anchors, [level[image].sigmoid() for level in logits], [d[image] for d in deltas]
            )
            for image in range(len(sizes))
        ]

    def _find_in_image(
        self, anchors: Sequence[Tensor], scores: Sequence[Tensor], deltas: Sequence[Tensor]
    ) -> Detections:
        """Returns the best boxes of one image after NMS per class, not clipped.

        On each of L maps, anchors are (n, 4), scores (n, K) and deltas (n, 4).
        """
        spec = self.spec
        kept = places([level > spec.score_thresh for level in scores])
        boxes, found, classes = [], [], []
        for anchor, score, delta, (rows, columns) in zip(anchors, scores, deltas, kept):
            best, order = score[rows, columns].topk(min(len(rows), spec.topk_candidates))
            rows, columns = rows[order], columns[order]
            boxes.append(self.coder.decode(delta[rows], anchor[rows]))
            found.append(best)
            classes.append(columns)
        all_boxes, all_scores, all_classes = torch.cat(boxes), torch.cat(found), torch.cat(classes)
        chosen = nms_in_groups(all_boxes, all_scores, all_classes, spec.nms_thresh)
        chosen = chosen[: spec.detections_per_image]
        return Detections(all_boxes[chosen], all_scores[chosen], all_classes[chosen])
