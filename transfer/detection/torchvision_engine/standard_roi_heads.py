"""The second stage of detectors on several maps: a box head, and a mask head with its own pooler.

The box heads are those of `box_head.BOX_HEADS`.
Specification: detectron2 `modeling/roi_heads/roi_heads.py`, class StandardROIHeads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import Tensor

from transfer.detection.torchvision_engine.box_head import (
    BoxHeadSpec,
    BoxPredictorSpec,
    find_box_head,
)
from transfer.detection.torchvision_engine.mask_head import MaskHeadSpec, mask_loss
from transfer.detection.torchvision_engine.pooler import PoolerSpec, RoiPooler
from transfer.detection.torchvision_engine.roi_heads import RoiHeads, RoiHeadsSpec
from transfer.detection.torchvision_engine.roi_sampler import RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import RoiSample


@dataclass(frozen=True, kw_only=True)
class StandardHeadsSpec(RoiHeadsSpec):
    """MODEL.ROI_HEADS.NAME StandardROIHeads: those of pyramids and of the tiny model."""

    architectures = ("FPN", "TINY", "VIT")

    box_head: BoxHeadSpec
    box_pooler: PoolerSpec
    mask_pooler: PoolerSpec

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
        )

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> StandardROIHeads:
        """See `RoiHeadsSpec`."""
        return StandardROIHeads(
            self,
            channels=channels[self.in_features[0]],
            strides=[strides[name] for name in self.in_features],
        )


class StandardROIHeads(RoiHeads):
    """Box head and mask head, each with a pooler, over the same maps (FPN, the tiny model)."""

    def __init__(self, spec: StandardHeadsSpec, *, channels: int, strides: Sequence[int]) -> None:
        """Args: channels, strides: of the maps, which are all as wide."""
        box_head = spec.box_head.build(channels, spec.box_pooler.resolution)  # first, as upstream
        super().__init__(spec, inputs=box_head.out_dim, channels=channels)
        self.box_head = box_head
        self.box_pooler = RoiPooler(spec.box_pooler, strides)
        self.mask_pooler = RoiPooler(spec.mask_pooler, strides)
        self.in_features = spec.in_features

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.in_features]

    def _box_vectors(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.box_head(self.box_pooler(self._maps(features), boxes))

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.mask_pooler(self._maps(features), boxes)

    def _losses(
        self, features: dict[str, Tensor], samples: Sequence[RoiSample]
    ) -> dict[str, Tensor]:
        vectors = self._box_vectors(features, [sample.boxes for sample in samples])
        logits, deltas = self.box_predictor(vectors)
        losses = self.box_predictor.losses(logits, deltas, samples)
        if self.mask_head is not None:
            chosen = [sample.foreground() for sample in samples]
            logits = self.mask_head(
                self._mask_features(features, [sample.boxes for sample in chosen])
            )
            losses["loss_mask"] = mask_loss(logits, chosen)
        return losses
