"""The second stage of C4 detectors: res5 on every box, and MoCo's extra norm after res5.

Specification: detectron2 `modeling/roi_heads/roi_heads.py`, class Res5ROIHeads; for the norm MoCo's
`detection/train_net.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.batchnorm import make_norm
from transfer.detection.torchvision_engine.box_head import (
    BoxPredictor,
    BoxPredictorSpec,
    find_box_head,
)
from transfer.detection.torchvision_engine.mask_head import MaskHeadSpec, mask_loss
from transfer.detection.torchvision_engine.pooler import PoolerSpec, RoiPooler
from transfer.detection.torchvision_engine.resnet import BottleneckSpec, make_stage
from transfer.detection.torchvision_engine.roi_heads import RoiHeads, RoiHeadsSpec
from transfer.detection.torchvision_engine.roi_sampler import RoiSamplerSpec
from transfer.detection.torchvision_engine.structures import (
    BoxTargets,
    Detections,
    RoiSample,
    foreground_rows,
)


@dataclass(frozen=True, kw_only=True)
class Res5HeadsSpec(RoiHeadsSpec):
    """Has the keys of the C4 detector's heads: MODEL.ROI_HEADS.NAME Res5ROIHeads or
    Res5ROIHeadsExtraNorm.
    """

    architectures = ("C4",)

    pooler: PoolerSpec
    blocks: BottleneckSpec  # the blocks of res5, with the same norm as those of the backbone
    extra_norm: bool  # True: a norm follows res5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Res5HeadsSpec:
        """Reads the config; raises InputError for values that make no such heads."""
        model, node = cfg.MODEL, cfg.MODEL.ROI_HEADS
        if model.ROI_BOX_HEAD.NAME:  # such heads have none, so that only its name is checked
            find_box_head(model.ROI_BOX_HEAD.NAME, node.NAME)
        for key, value in (
            ("MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES", model.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES),
            ("MODEL.KEYPOINT_ON", model.KEYPOINT_ON),
        ):
            if value:
                raise InputError(
                    f"{key} True needs MODEL.ROI_HEADS.NAME StandardROIHeads, not {node.NAME}"
                )
        return cls(
            in_features=tuple(node.IN_FEATURES),
            num_classes=node.NUM_CLASSES,
            sampler=RoiSamplerSpec.from_config(cfg),
            predictor=BoxPredictorSpec.from_config(cfg),
            mask_head=MaskHeadSpec.from_config(cfg),
            pooler=PoolerSpec.from_config(model.ROI_BOX_HEAD),
            blocks=BottleneckSpec.from_config(cfg),
            extra_norm=node.NAME == "Res5ROIHeadsExtraNorm",
        )

    def build(self, *, channels: Mapping[str, int], strides: Mapping[str, int]) -> Res5ROIHeads:
        """See `RoiHeadsSpec`."""
        (name,) = self.in_features
        return Res5ROIHeads(self, inputs=channels[name], stride=strides[name])


class Res5ROIHeads(RoiHeads):
    """Applies RoIAlign to res4 and the stage `res5` to every box, and gives its mean to the
    predictor; masks share res5.

    With `extra_norm` a norm without ReLU is the last child of `res5`, named `norm`. It is MoCo's
    (He et al. 2020, `detection/train_net.py`): features of different pretraining differ in scale,
    and the norm brings them to one before the new predictor.
    """

    box_predictor: BoxPredictor

    def __init__(self, spec: Res5HeadsSpec, *, inputs: int, stride: int) -> None:
        """Args: inputs, stride: channels and pixels per cell of res4."""
        channels = 2 * inputs
        # Before the base's parts, as upstream: a seed then draws the same weights.
        res5 = make_stage(
            depth=50,  # three blocks, as in every bottleneck ResNet's last stage
            stage=5,
            inputs=inputs,
            blocks=spec.blocks,
        )
        if spec.extra_norm:
            res5.add_module("norm", make_norm(spec.blocks.norm, channels) or nn.Identity())
        predictor = BoxPredictor(spec.predictor, inputs=channels, num_classes=spec.num_classes)
        super().__init__(spec, box_predictor=predictor, channels=channels)
        self.res5 = res5
        self.pooler = RoiPooler(spec.pooler, (stride,))
        (self.feature,) = spec.in_features

    def _mask_features(self, features: dict[str, Tensor], boxes: Sequence[Tensor]) -> Tensor:
        return self.res5(self.pooler([features[self.feature]], boxes))

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        vectors = self._mask_features(features, proposals).mean(dim=(2, 3))
        logits, deltas = self.box_predictor(vectors)
        return self.box_predictor.detect(logits, deltas, proposals, image_sizes)

    def _losses(
        self,
        features: dict[str, Tensor],
        samples: Sequence[RoiSample],
        image_sizes: Sequence[tuple[int, int]],
    ) -> dict[str, Tensor]:
        shared = self._mask_features(features, [sample.boxes for sample in samples])
        logits, deltas = self.box_predictor(shared.mean(dim=(2, 3)))
        losses = self.box_predictor.losses(logits, deltas, BoxTargets.of(samples))
        if self.mask_head is not None:
            logits = self.mask_head(shared[foreground_rows(samples)])
            losses["loss_mask"] = mask_loss(logits, [sample.foreground() for sample in samples])
        return losses
