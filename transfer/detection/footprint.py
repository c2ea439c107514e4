"""Computes what a detector's training step needs of a GPU: the bytes and FLOPs of a config on a
number of processes. It takes seconds, on any machine.

The step is that of the torchvision engine at the largest images of the config. The choice of boxes
depends on values, which fake tensors do not have: here each image has as many proposals as NMS may
    leave, and as many sampled anchors and boxes, of them as many objects, as the samplers may take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from pretrain.common.run_needs import RunNeeds
from pretrain.common.step_cost import (
    StepCost,
    cost_of_step,
    fake_tensors,
    gradient_buckets,
    make_fake,
)
from pretrain.data.preprocess import Preprocess
from transfer.detection.scaling import for_processes
from transfer.detection.torchvision_engine.box_head import BoxPredictor
from transfer.detection.torchvision_engine.box_losses import SMOOTH_L1, BoxLoss
from transfer.detection.torchvision_engine.cascade_roi_heads import CascadeROIHeads
from transfer.detection.torchvision_engine.detector import BaseDetector, Detector
from transfer.detection.torchvision_engine.engine import make_detector
from transfer.detection.torchvision_engine.keypoint_head import KeypointHead
from transfer.detection.torchvision_engine.pooler import RoiPooler
from transfer.detection.torchvision_engine.retinanet import RetinaNet
from transfer.detection.torchvision_engine.roi_sampler import RoiSampler
from transfer.detection.torchvision_engine.rpn import RPN
from transfer.detection.torchvision_engine.standard_roi_heads import PooledHeads
from transfer.detection.torchvision_engine.structures import BoxTargets, RoiSample, Targets
from transfer.training.build import make_optimizer
from transfer.training.loop import add
from transfer.training.precision import DTYPES

OBJECTS = 8  # objects in an image; about COCO's mean


def run_needs(cfg: CfgNode, num_processes: int) -> RunNeeds:
    """Returns what a training needs of each of its GPUs.

    Raises InputError for a batch that does not divide.
    """
    cfg = for_processes(cfg, num_processes)
    return RunNeeds(
        cost=step_cost(cfg, num_processes),
        processes=num_processes,
        images=cfg.SOLVER.IMS_PER_BATCH // num_processes // cfg.TRANSFER.ACCUMULATE,
        steps=cfg.SOLVER.MAX_ITER * cfg.TRANSFER.ACCUMULATE,
        half=cfg.SOLVER.AMP.ENABLED,
        remedy="raise TRANSFER.ACCUMULATE, use more processes, or lower SOLVER.IMS_PER_BATCH",
    )


def step_cost(
    cfg: CfgNode, num_processes: int = 1, size: tuple[int, int] | None = None
) -> StepCost:
    """Returns the cost of a training step in one process.

    If gradients accumulate, it is the cost of one part of the step.

    Args:
        cfg: as `for_processes` scales it.
        size: (height, width) of the images in pixels; None: the largest that the config allows.
    """
    images = cfg.SOLVER.IMS_PER_BATCH // num_processes // cfg.TRANSFER.ACCUMULATE
    with torch.device("meta"):
        detector = make_detector(cfg, Preprocess())
        if cfg.TRANSFER.CHANNELS_LAST:
            detector.to(memory_format=torch.channels_last)
    with fake_tensors():
        make_fake(detector)
        optimizer = make_optimizer(cfg, detector.train())
        height, width = _padded(detector, size or largest_image(cfg))
        batch = torch.empty(images, 3, height, width)
        targets = [_targets(detector) for _ in range(images)]
        _choose_by_count(detector)
        dtype = DTYPES[cfg.TRANSFER.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else torch.bfloat16

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype, enabled=cfg.SOLVER.AMP.ENABLED):
                losses = _losses(detector, batch, targets)
            add(losses.values()).backward()
            optimizer.step()

        held = [list(detector.parameters()), list(detector.buffers()), batch]
        return cost_of_step(step, [held, gradient_buckets(detector, num_processes)])


def largest_image(cfg: CfgNode) -> tuple[int, int]:
    """Returns (height, width) of the largest training images; wider than high, as most photographs
    are.
    """
    if cfg.TRANSFER.LSJ.SCALES:
        return cfg.TRANSFER.LSJ.CROP_SIZE, cfg.TRANSFER.LSJ.CROP_SIZE
    short, long = max(cfg.INPUT.MIN_SIZE_TRAIN), cfg.INPUT.MAX_SIZE_TRAIN
    return min(short, long), long


def _padded(detector: BaseDetector, size: tuple[int, int]) -> tuple[int, int]:
    if detector.square_size:
        return detector.square_size, detector.square_size
    step = max(detector.size_divisibility, 1)
    height, width = (-(-side // step) * step for side in size)
    return height, width


def _losses(detector: BaseDetector, batch: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
    """Does what `Detector.forward` does with padded images."""
    sizes = [(batch.shape[-2], batch.shape[-1])] * len(batch)
    return detector.losses(detector.backbone(batch), sizes, targets)


class _AnyMasks:
    """Masks of the size that is asked for."""

    def crop(self, index: Tensor, boxes: Tensor, size: int) -> Tensor:
        """See `GroundTruthMasks`."""
        return torch.empty(len(boxes), size, size, dtype=torch.bool)


def _targets(detector: BaseDetector) -> Targets:
    masks = _AnyMasks() if detector.has_masks else None
    return Targets(torch.empty(OBJECTS, 4), torch.empty(OBJECTS, dtype=torch.long), masks)


def _choose_by_count(detector: BaseDetector) -> None:
    """Makes each part that chooses boxes by their values take a fixed number of them."""
    if isinstance(detector, RetinaNet):
        detector.__class__ = _CountedRetinaNet
        return
    assert isinstance(detector, Detector)
    heads = detector.roi_heads
    detector.proposal_generator.__class__ = _CountedRPN
    heads.sampler.__class__ = _CountedSampler
    if isinstance(heads, PooledHeads):
        for pooler in (heads.box_pooler, heads.mask_pooler, heads.keypoint_pooler):
            if pooler is not None:
                pooler.__class__ = _EvenPooler
        if heads.keypoint_head is not None:
            heads.keypoint_head.__class__ = _CountedKeypointHead
    if isinstance(heads, CascadeROIHeads):
        heads.__class__ = _CountedCascade
    for module in heads.modules():
        if isinstance(module, BoxPredictor):  # losses of overlaps choose boxes that meet
            module.box_loss = BoxLoss(SMOOTH_L1, 0.0, module.coder)


class _CountedRetinaNet(RetinaNet):
    """All anchors are trained on, some of them with an object."""

    def label_anchors(self, anchors: Tensor, targets: Sequence[Targets]) -> tuple[Tensor, Tensor]:
        count = (len(targets), len(anchors))
        return torch.empty(count, dtype=torch.long), torch.empty(*count, 4)

    def losses_of(
        self, logits: Tensor, deltas: Tensor, classes: Tensor, wanted: Tensor, anchors: Tensor
    ) -> dict[str, Tensor]:
        rows = torch.arange(OBJECTS * len(logits))
        moved = deltas.flatten(0, 1)[rows] - wanted.flatten(0, 1)[rows]
        focal = sigmoid_focal_loss(logits, torch.empty_like(logits), reduction="sum")
        return {"loss_cls": focal, "loss_box_reg": moved.abs().sum()}


class _CountedRPN(RPN):
    def label_anchors(self, anchors: Tensor, gt_boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        count = (len(gt_boxes), len(anchors))
        return torch.empty(count, dtype=torch.int8), torch.empty(*count, 4)

    def losses(
        self, logits: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, anchors: Tensor
    ) -> dict[str, Tensor]:
        used = torch.arange(self.spec.batch_size_per_image * len(logits))
        score = logits.flatten()[used]
        moved = deltas.flatten(0, 1)[used] - targets.flatten(0, 1)[used]
        return {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(score, torch.empty(len(used))),
            "loss_rpn_loc": moved.abs().sum(),
        }

    def _select(self, boxes: Tensor, *rest: Any) -> list[Tensor]:
        return [image[: self.spec.post_nms_topk_train] for image in boxes]


class _CountedSampler(RoiSampler):
    def __call__(self, proposals: Sequence[Tensor], targets: Sequence[Targets]) -> list[RoiSample]:
        count = self.spec.batch_size_per_image
        classes, objects = torch.empty(count, dtype=torch.long), self.spec.positive_fraction
        return [
            RoiSample(
                *(torch.empty(count, 4), classes, torch.empty(count, 4), classes),
                *(truth, int(count * objects)),
            )
            for truth in targets
        ]


class _CountedCascade(CascadeROIHeads):
    """No box becomes empty, and each stage has as many boxes with an object as the first one."""

    def _next_boxes(
        self, predictor: BoxPredictor, deltas: Tensor, boxes: Sequence[Tensor], *rest: Any
    ) -> list[Tensor]:
        return [image.detach() for image in predictor.decode(deltas, boxes)]

    def _label(self, boxes: Sequence[Tensor], *rest: Any) -> BoxTargets:
        count, share = sum(map(len, boxes)), self.sampler.spec.positive_fraction
        classes, rows = torch.empty(count, dtype=torch.long), torch.arange(int(count * share))
        return BoxTargets(torch.cat(list(boxes)), classes, torch.empty(count, 4), rows)


class _CountedKeypointHead(KeypointHead):
    """All boxes with an object have all keypoints inside."""

    def visible(self, samples: Sequence[RoiSample]) -> list[RoiSample]:
        return list(samples)

    def loss(self, logits: Tensor, samples: Sequence[RoiSample]) -> Tensor:
        maps = logits.flatten(0, 1).flatten(1)
        return F.cross_entropy(maps, torch.empty(len(maps), dtype=torch.long), reduction="sum")


class _EvenPooler(RoiPooler):
    """Pools the same number of boxes from each map."""

    def __call__(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        count = sum(map(len, boxes))
        rois = torch.empty(count, 5)
        if len(self.strides) == 1:
            return self._pool(features[0], rois, self.strides[0])
        side = self.resolution
        pooled = features[0].new_zeros(count, features[0].shape[1], side, side)
        for chosen, feature, stride in zip(
            torch.arange(count).chunk(len(self.strides)), features, self.strides
        ):
            pooled.index_put_((chosen,), self._pool(feature, rois[chosen], stride))
        return pooled
