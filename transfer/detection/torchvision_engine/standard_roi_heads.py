"""The second stage of detectors on several maps: a box head, and a mask head and a keypoint head
with poolers of their own.

The box heads are those of `box_head.BOX_HEADS`.
Specification: detectron2 `modeling/roi_heads/roi_heads.py`, class StandardROIHeads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from transfer.detection.torchvision_engine.box_head import (
    BoxHeadSpec,
    BoxPredictor,
    BoxPredictorSpec,
    find_box_head,
)
from transfer.detection.torchvision_engine.keypoint_head import (
    KeypointHead,
    KeypointHeadSpec,
    read_maps,
)
from transfer.detection.torchvision_engine.mask_head import MaskHeadSpec, mask_loss
from transfer.detection.torchvision_engine.pooler import PoolerSpec, RoiPooler
from transfer.detection.torchvision_engine.roi_heads import RoiHeads, RoiHeadsSpec
from transfer.detection.torchvision_engine.roi_sampler import RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import (
    BoxTargets,
    Detections,
    RoiSample,
)


@dataclass(frozen=True, kw_only=True)
class StandardHeadsSpec(RoiHeadsSpec):
    """Has the keys of StandardROIHeads (MODEL.ROI_HEADS.NAME), for all but C4 detectors."""

    architectures = ("C5", "FPN", "TINY", "VIT")

    box_head: BoxHeadSpec
    box_pooler: PoolerSpec
    mask_pooler: PoolerSpec
    keypoint_head: KeypointHeadSpec | None
    # The mask head and the keypoint head learn on the boxes that the box head predicts, as they
    # will be used.
    train_on_pred_boxes: bool

    @classmethod
    def from_config(cls, cfg: CfgNode) -> StandardHeadsSpec:
        """Reads the config; raises InputError for values that make no such heads."""
        node = cfg.MODEL.ROI_HEADS
        return cls(
            in_features=tuple(node.IN_FEATURES),
            num_classes=node.NUM_CLASSES,
            sampler=RoiSamplerSpec.from_config(cfg),
            predictor=BoxPredictorSpec.from_config(cfg),
            mask_head=MaskHeadSpec.from_config(cfg),
            box_head=find_box_head(cfg.MODEL.ROI_BOX_HEAD.NAME, node.NAME).from_config(cfg),
            box_pooler=PoolerSpec.from_config(cfg.MODEL.ROI_BOX_HEAD),
            mask_pooler=PoolerSpec.from_config(cfg.MODEL.ROI_MASK_HEAD),
            keypoint_head=KeypointHeadSpec.from_config(cfg),
            train_on_pred_boxes=cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES,
        )

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> PooledHeads:
        """See `RoiHeadsSpec`."""
        return StandardROIHeads(
            self,
            channels=channels[self.in_features[0]],
            strides=[strides[name] for name in self.in_features],
        )


class PooledHeads(RoiHeads):
    """Is the frame of the heads that have a pooler each, for boxes, masks and keypoints, over the
    same maps. Its children are `box_head` and, with keypoints, `keypoint_head`.
    """

    def __init__(
        self,
        spec: StandardHeadsSpec,
        *,
        box_head: nn.Module,
        box_predictor: nn.Module,
        channels: int,
        strides: Sequence[int],
    ) -> None:
        """Args: channels, strides: those of the maps, which all have the same channels."""
        super().__init__(spec, box_predictor=box_predictor, channels=channels)
        self.box_head = box_head
        self.box_pooler = RoiPooler(spec.box_pooler, strides)
        self.mask_pooler = RoiPooler(spec.mask_pooler, strides)
        self.keypoint_head: KeypointHead | None = None
        self.keypoint_pooler: RoiPooler | None = None
        if spec.keypoint_head is not None:
            self.keypoint_head = KeypointHead(spec.keypoint_head, channels)
            self.keypoint_pooler = RoiPooler(spec.keypoint_head.pooler, strides)
        self.in_features = spec.in_features

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.in_features]

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.mask_pooler(self._maps(features), boxes)

    def _add_keypoints(self, features: dict[str, Tensor], detections: list[Detections]) -> None:
        if self.keypoint_head is None or self.keypoint_pooler is None:
            return
        boxes = [image.boxes for image in detections]
        logits = self.keypoint_head(self.keypoint_pooler(self._maps(features), boxes))
        found = read_maps(logits, torch.cat(boxes))
        for image, keypoints in zip(detections, found.split([len(image) for image in detections])):
            image.keypoints = keypoints

    def _other_losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        """Returns the losses of the sampled boxes that hold an object: with masks {"loss_mask"},
        with keypoints {"loss_keypoint"}, of the boxes with a labelled one."""
        losses: dict[str, Tensor] = {}
        chosen = [sample.foreground() for sample in samples]
        if self.mask_head is not None:
            boxes = [sample.boxes for sample in chosen]
            losses["loss_mask"] = mask_loss(
                self.mask_head(self._mask_features(features, boxes)), chosen
            )
        if self.keypoint_head is not None and self.keypoint_pooler is not None:
            chosen = self.keypoint_head.visible(chosen)
            pooled = self.keypoint_pooler(self._maps(features), [s.boxes for s in chosen])
            losses["loss_keypoint"] = self.keypoint_head.loss(self.keypoint_head(pooled), chosen)
        return losses


class StandardROIHeads(PooledHeads):
    """Has a box head, a predictor, a mask head and a keypoint head."""

    box_predictor: BoxPredictor

    def __init__(self, spec: StandardHeadsSpec, *, channels: int, strides: Sequence[int]) -> None:
        """Args: channels, strides: those of the maps, which all have the same channels."""
        # Made in upstream's order: a seed then draws the same weights.
        head = spec.box_head.build(channels, spec.box_pooler.resolution)
        predictor = BoxPredictor(spec.predictor, inputs=head.out_dim, num_classes=spec.num_classes)
        super().__init__(
            spec, box_head=head, box_predictor=predictor, channels=channels, strides=strides
        )
        self.train_on_pred_boxes = spec.train_on_pred_boxes

    def _predict(
        self, features: dict[str, Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Returns logits (r, K + 1) and deltas (r, 4 * B) of N images' boxes (n, 4)."""
        return self.box_predictor(self.box_head(self.box_pooler(self._maps(features), boxes)))

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        logits, deltas = self._predict(features, proposals)
        return self.box_predictor.detect(logits, deltas, proposals, image_sizes)

    def _losses(
        self,
        features: dict[str, Tensor],
        samples: Sequence[RoiSample],
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        logits, deltas = self._predict(features, [sample.boxes for sample in samples])
        losses = self.box_predictor.losses(logits, deltas, BoxTargets.of(samples))
        if self.train_on_pred_boxes:
            samples = self._refined(deltas, samples)
        return {**losses, **self._other_losses(features, samples)}

    @torch.no_grad()
    def _refined(self, deltas: Tensor, samples: Sequence[RoiSample]) -> list[RoiSample]:
        """Returns the samples with the boxes that the predictor makes of them."""
        boxes = self.box_predictor.boxes_of_true_classes(
            deltas,
            [sample.boxes for sample in samples],
            torch.cat([sample.classes for sample in samples]),
        )
        return [replace(sample, boxes=moved) for sample, moved in zip(samples, boxes)]
