"""The mask head: it predicts a mask of each class in each box; the loss and the choice of a class.

r boxes, C channels, P side of the pooled features, M = 2 * P side of the masks, K classes.
Specification: He et al. 2017 as in detectron2 `modeling/roi_heads/mask_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from transfer.detection.torchvision_engine.batchnorm import check_norm
from transfer.detection.torchvision_engine.layers import ConvNorm, init_msra, init_normal
from transfer.detection.torchvision_engine.mask_targets import GroundTruthMasks
from transfer.detection.torchvision_engine.structures import RoiSample


@dataclass(frozen=True, kw_only=True)
class MaskHeadSpec:
    """Has the keys of the node MODEL.ROI_MASK_HEAD, but its pooler's: C4's masks share the boxes'
    features.
    """

    num_conv: int
    conv_dim: int  # channels of the convolutions
    norm: str  # the norm after each convolution; "": none
    class_agnostic: bool  # True: a box has one mask for all classes

    @classmethod
    def from_config(cls, cfg: CfgNode) -> MaskHeadSpec | None:
        """Reads the config; None without MODEL.MASK_ON; raises InputError for an unknown norm."""
        if not cfg.MODEL.MASK_ON:
            return None
        node = cfg.MODEL.ROI_MASK_HEAD
        return cls(
            num_conv=node.NUM_CONV,
            conv_dim=node.CONV_DIM,
            norm=node.NORM,
            class_agnostic=node.CLS_AGNOSTIC_MASK,
        )

    def __post_init__(self) -> None:
        """Raises InputError for an unknown norm."""
        check_norm("MODEL.ROI_MASK_HEAD.NORM", self.norm)


class MaskHead(nn.Module):
    """Has 3x3 convolutions `mask_fcn1`, ... and a 2x2 stride-2 `deconv`, each with ReLU, and a 1x1
    `predictor`.
    """

    def __init__(self, spec: MaskHeadSpec, *, channels: int, num_classes: int) -> None:
        """Args: channels: channels of the pooled features."""
        super().__init__()
        self.convolutions: list[str] = []
        bias = spec.norm == ""  # a norm that follows would cancel it
        for index in range(spec.num_conv):
            name = f"mask_fcn{index + 1}"
            layer = ConvNorm(channels, spec.conv_dim, 3, norm=spec.norm, bias=bias, relu=True)
            self.add_module(name, layer)
            self.convolutions.append(name)
            channels = spec.conv_dim
        self.deconv = nn.ConvTranspose2d(channels, spec.conv_dim, kernel_size=2, stride=2)
        # A mask for each class: classes do not compete for a pixel, the box head chose already. One
        # for all of them is nearly as good (He et al. 2017, section 4.2).
        masks = 1 if spec.class_agnostic else num_classes
        self.predictor = nn.Conv2d(spec.conv_dim, masks, 1)
        for name in self.convolutions:
            init_msra(getattr(self, name))
        init_msra(self.deconv)
        init_normal(self.predictor, 0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (r, K, M, M), or (r, 1, M, M) for all classes; x is (r, C, P, P)."""
        for name in self.convolutions:
            x = getattr(self, name)(x)
        return self.predictor(F.relu(self.deconv(x)))


def mask_loss(logits: Tensor, samples: Sequence[RoiSample]) -> Tensor:
    """Returns the mean binary cross-entropy of the true class's masks.

    Args:
        logits: (r, K or 1, M, M) of all foreground boxes of the batch, image by image.
        samples: those boxes; r in all.
    """
    masks = [
        _masks_of(sample).crop(sample.gt_index, sample.boxes, logits.shape[-1])
        for sample in samples
        if len(sample.boxes)
    ]
    if not masks:
        return logits.sum() * 0  # keeps every parameter in the graph, as DDP needs
    classes = torch.cat([sample.classes for sample in samples])
    chosen = _of_classes(logits, classes)
    target = torch.cat(masks).to(torch.float32)
    return F.binary_cross_entropy_with_logits(chosen, target, reduction="mean")


def _masks_of(sample: RoiSample) -> GroundTruthMasks:
    if sample.targets.masks is None:
        raise ValueError("the objects of an image have no masks")  # `Detector` refuses it before
    return sample.targets.masks


def mask_probabilities(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns the probabilities (r, M, M) of predicted classes (r,); logits (r, K or 1, M, M)."""
    return _of_classes(logits, classes).sigmoid()


def _of_classes(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns, of masks (r, K or 1, M, M), the one of each object's class (r,): (r, M, M)."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return logits[torch.arange(len(classes), device=classes.device), classes]
