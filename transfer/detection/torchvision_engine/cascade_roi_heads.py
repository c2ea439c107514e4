"""The second stage of a cascade: box heads one after the other, each on the boxes of the last one.

N images, r boxes of an image, S stages, K classes. A later stage is trained against objects that
its boxes overlap more, so that it learns what is left to refine; scores are the stages' mean.
Specification: Cai & Vasconcelos 2018 (figure 3d) as in detectron2
`modeling/roi_heads/cascade_rcnn.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.box_head import BoxPredictor
from transfer.detection.torchvision_engine.boxes import clip, nonempty
from transfer.detection.torchvision_engine.matching import check_thresholds
from transfer.detection.torchvision_engine.places import places
from transfer.detection.torchvision_engine.roi_sampler import label_boxes
from transfer.detection.torchvision_engine.standard_roi_heads import (
    PooledHeads,
    StandardHeadsSpec,
)
from transfer.detection.torchvision_engine.structures import (
    BoxTargets,
    Detections,
    RoiSample,
    Targets,
)

IOUS, WEIGHTS = "MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS"


@dataclass(frozen=True, kw_only=True)
class CascadeHeadsSpec(StandardHeadsSpec):
    """Has the keys of CascadeROIHeads (MODEL.ROI_HEADS.NAME) and of the node
    MODEL.ROI_BOX_CASCADE_HEAD.
    """

    ious: tuple[float, ...]  # per stage: a box is an object from this IoU on, else background
    bbox_reg_weights: tuple[tuple[float, ...], ...]  # per stage: factors of the deltas x, y, w, h

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CascadeHeadsSpec:
        """Reads the config; raises InputError for values that make no cascade."""
        node = cfg.MODEL.ROI_BOX_CASCADE_HEAD
        return cls(
            **vars(StandardHeadsSpec.from_config(cfg)),
            ious=tuple(node.IOUS),
            bbox_reg_weights=tuple(map(tuple, node.BBOX_REG_WEIGHTS)),
        )

    def __post_init__(self) -> None:
        """Raises InputError for values that make no cascade."""
        super().__post_init__()
        if self.train_on_pred_boxes:
            raise InputError(
                "MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES True needs MODEL.ROI_HEADS.NAME "
                "StandardROIHeads, not CascadeROIHeads"
            )
        rows = self.bbox_reg_weights
        if len(rows) != len(self.ious) or any(len(row) != 4 or min(row) <= 0 for row in rows):
            raise InputError(
                f"{WEIGHTS} {list(map(list, rows))} must be {len(self.ious)} rows of 4 numbers "
                f"above 0, one row for each of {IOUS} {list(self.ious)}"
            )
        check_thresholds(IOUS, self.ious, len(self.ious))
        if self.ious[0] != self.sampler.iou_thresholds[0]:
            raise InputError(
                f"{IOUS} {list(self.ious)} must begin with MODEL.ROI_HEADS.IOU_THRESHOLDS "
                f"{list(self.sampler.iou_thresholds)}, by which the proposals are sampled"
            )
        if not self.predictor.class_agnostic:
            raise InputError(
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG must be True for CascadeROIHeads, whose "
                "stages refine one box of a region"
            )

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> CascadeROIHeads:
        """See `RoiHeadsSpec`."""
        return CascadeROIHeads(
            self,
            channels=channels[self.in_features[0]],
            strides=[strides[name] for name in self.in_features],
        )


@dataclass(frozen=True)
class StageOutput:
    """Is the output of one stage for the boxes of N images."""

    boxes: list[Tensor]  # N times (n, 4): the boxes that the stage was given
    logits: Tensor  # (r, K + 1)
    deltas: Tensor  # (r, 4)
    truth: BoxTargets | None  # only in training


class CascadeROIHeads(PooledHeads):
    """Has the children `box_head.0`, ... and `box_predictor.0`, ..., one of each for a stage, and
    `mask_head`.
    """

    box_head: nn.ModuleList
    box_predictor: nn.ModuleList

    def __init__(self, spec: CascadeHeadsSpec, *, channels: int, strides: Sequence[int]) -> None:
        """Args: channels, strides: those of the maps, which all have the same channels."""
        heads, predictors = nn.ModuleList(), nn.ModuleList()
        for weights in spec.bbox_reg_weights:
            head = spec.box_head.build(channels, spec.box_pooler.resolution)
            predictor = replace(spec.predictor, bbox_reg_weights=weights)
            heads.append(head)
            predictors.append(
                BoxPredictor(predictor, inputs=head.out_dim, num_classes=spec.num_classes)
            )
        super().__init__(
            spec, box_head=heads, box_predictor=predictors, channels=channels, strides=strides
        )
        self.ious, self.num_classes = spec.ious, spec.num_classes

    def _stages(
        self,
        features: dict[str, Tensor],
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        samples: Sequence[RoiSample] = (),
    ) -> Iterator[StageOutput]:
        """Runs stage after stage; `samples` are those of the first one, in training."""
        truth = BoxTargets.of(samples) if self.training else None
        for stage, predictor in enumerate(self._predictors()):
            logits, deltas = self._predict(stage, features, boxes)
            yield StageOutput(list(boxes), logits, deltas, truth)
            if stage + 1 < len(self.ious):
                boxes = self._next_boxes(predictor, deltas, boxes, image_sizes)
                if self.training:
                    targets = [sample.targets for sample in samples]
                    truth = self._label(boxes, targets, self.ious[stage + 1])

    def _predictors(self) -> Iterator[BoxPredictor]:
        for predictor in self.box_predictor:
            assert isinstance(predictor, BoxPredictor)
            yield predictor

    def _predict(
        self, stage: int, features: dict[str, Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns a stage's logits (r, K + 1) and deltas (r, 4) of N images' boxes (n, 4)."""
        pooled = self.box_pooler(self._maps(features), boxes)
        if pooled.requires_grad:
            # The stages' losses are added up; the backbone sees their mean, as one head's.
            share = 1.0 / len(self.ious)
            pooled.register_hook(lambda gradient: gradient * share)
        return self.box_predictor[stage](self.box_head[stage](pooled))

    @torch.no_grad()
    def _next_boxes(
        self,
        predictor: BoxPredictor,
        deltas: Tensor,
        boxes: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Tensor]:
        """Returns the refined boxes of a stage, clipped; in training without boxes that become
        empty.
        """
        refined = [clip(*image) for image in zip(predictor.decode(deltas, boxes), image_sizes)]
        if not self.training:
            return refined  # each stage scores the same boxes, row by row
        kept = places([nonempty(image) for image in refined])
        return [image[rows] for image, (rows,) in zip(refined, kept)]

    @torch.no_grad()
    def _label(
        self, boxes: Sequence[Tensor], targets: Sequence[Targets], threshold: float
    ) -> BoxTargets:
        """Returns what a later stage is trained on: all of N images' boxes (n, 4), in order."""
        all_classes, all_boxes = [], []
        for image, truth in zip(boxes, targets):
            index, classes = label_boxes(image, truth, threshold, self.num_classes)
            all_classes.append(classes)
            # Without ground truth these rows are never read.
            all_boxes.append(truth.boxes[index] if len(truth.boxes) else image)
        classes = torch.cat(all_classes)
        ((rows,),) = places([classes < self.num_classes])
        return BoxTargets(torch.cat(list(boxes)), classes, torch.cat(all_boxes), rows)

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        outputs = list(self._stages(features, proposals, image_sizes))
        *_, last = self._predictors()
        counts = [len(image) for image in proposals]
        total = sum(last.probabilities(output.logits) for output in outputs)
        assert isinstance(total, Tensor)
        scores = (total * (1.0 / len(outputs))).split(counts)
        boxes = last.decode(outputs[-1].deltas, outputs[-1].boxes)
        return [last.select(*image) for image in zip(boxes, scores, image_sizes)]

    def _losses(
        self,
        features: dict[str, Tensor],
        samples: Sequence[RoiSample],
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        """Returns loss_cls_stage0, loss_box_reg_stage0, ..., and loss_mask and loss_keypoint of the
        first stage's boxes.
        """
        losses: dict[str, Tensor] = {}
        boxes = [sample.boxes for sample in samples]
        outputs = self._stages(features, boxes, image_sizes, samples)
        for stage, (predictor, output) in enumerate(zip(self._predictors(), outputs)):
            assert output.truth is not None
            found = predictor.losses(output.logits, output.deltas, output.truth)
            losses |= {f"{name}_stage{stage}": value for name, value in found.items()}
        return {**losses, **self._other_losses(features, samples)}
