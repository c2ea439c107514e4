"""The keypoint head: for each box and each keypoint a map of scores of where the keypoint is.

It is trained as a classifier over the cells of the map, and read at the map's highest place.
r boxes, K keypoints, C channels, P side of the pooled features, S = 4 * P cells along a map's side.
A keypoint is x, y in pixels of the network's input, and a visibility (0: not labelled; in
detections a score).
Specification: He et al. 2017 (section 5, "Mask R-CNN for Human Pose Estimation") as in detectron2
`modeling/roi_heads/keypoint_head.py` and `structures/keypoints.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from pretrain.common.errors import InputError
from transfer.detection.torchvision_engine.layers import ConvNorm, init_msra
from transfer.detection.torchvision_engine.places import places
from transfer.detection.torchvision_engine.pooler import PoolerSpec
from transfer.detection.torchvision_engine.structures import RoiSample

SECTION = "MODEL.ROI_KEYPOINT_HEAD"


@dataclass(frozen=True, kw_only=True)
class KeypointHeadSpec:
    """Has the keys of the node MODEL.ROI_KEYPOINT_HEAD."""

    pooler: PoolerSpec
    conv_dims: tuple[int, ...]  # channels of the 3x3 convolutions
    num_keypoints: int
    loss_weight: float
    # The number by which the loss of an image is divided; None: its number of sampled keypoints.
    divisor: float | None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> KeypointHeadSpec | None:
        """Reads the config; None without MODEL.KEYPOINT_ON; InputError for values that make no
        head."""
        if not cfg.MODEL.KEYPOINT_ON:
            return None
        node, sampled = cfg.MODEL.ROI_KEYPOINT_HEAD, cfg.MODEL.ROI_HEADS
        # An image may have so many keypoints: all those of all objects among its sampled boxes.
        most = node.NUM_KEYPOINTS * sampled.BATCH_SIZE_PER_IMAGE * sampled.POSITIVE_FRACTION
        return cls(
            pooler=PoolerSpec.from_config(node),
            conv_dims=tuple(node.CONV_DIMS),
            num_keypoints=node.NUM_KEYPOINTS,
            loss_weight=node.LOSS_WEIGHT,
            divisor=None if node.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS else most,
        )

    def __post_init__(self) -> None:
        """Raises InputError, naming the key, for values that make no head."""
        if self.num_keypoints < 1:
            raise InputError(
                f"{SECTION}.NUM_KEYPOINTS must be 1 or above, got {self.num_keypoints}"
            )
        if min(self.conv_dims, default=0) < 1:
            raise InputError(
                f"{SECTION}.CONV_DIMS {list(self.conv_dims)} needs the channels of one convolution "
                "or more, each 1 or above"
            )
        if self.loss_weight < 0:
            raise InputError(f"{SECTION}.LOSS_WEIGHT must be 0 or above, got {self.loss_weight}")


class KeypointHead(nn.Module):
    """Has 3x3 convolutions `conv_fcn1`, ... with ReLU and `score_lowres`, a 4x4 stride-2 transposed
    convolution to K maps, which are then made twice as large bilinearly.
    """

    def __init__(self, spec: KeypointHeadSpec, channels: int) -> None:
        """Args: channels: channels of the pooled features."""
        super().__init__()
        self.loss_weight, self.divisor = spec.loss_weight, spec.divisor
        self.convolutions = [f"conv_fcn{index + 1}" for index in range(len(spec.conv_dims))]
        for name, outputs in zip(self.convolutions, spec.conv_dims):
            self.add_module(name, ConvNorm(channels, outputs, 3, bias=True, relu=True))
            channels = outputs
        self.score_lowres = nn.ConvTranspose2d(channels, spec.num_keypoints, 4, stride=2, padding=1)
        # After all layers are made: the draws are then Detectron2's for a seed.
        for name in self.convolutions:
            init_msra(getattr(self, name))
        init_msra(self.score_lowres)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits (r, K, S, S) of features (r, C, P, P)."""
        for name in self.convolutions:
            x = getattr(self, name)(x)
        x = self.score_lowres(x)
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)

    def visible(self, samples: Sequence[RoiSample]) -> list[RoiSample]:
        """Returns the boxes with a labelled keypoint inside, which alone are trained on.

        Args:
            samples: the boxes of each image that hold an object.
        """
        found = [_in_box(_keypoints_of(sample), sample.boxes).any(dim=1) for sample in samples]
        return [sample.rows(rows) for sample, (rows,) in zip(samples, places(found))]

    def loss(self, logits: Tensor, samples: Sequence[RoiSample]) -> Tensor:
        """Returns the cross-entropy over the S * S cells of each labelled keypoint's map.

        The sum is divided by the number of these keypoints, or by the images and the spec's
        divisor. Without such a keypoint it is 0, and every parameter has a gradient, as DDP needs.

        Args:
            logits: (r, K, S, S) of all boxes of the batch, image by image.
            samples: those boxes, what `visible` returned.
        """
        boxes = torch.cat([sample.boxes for sample in samples])
        keypoints = torch.cat([_keypoints_of(sample) for sample in samples])
        cells, valid = cells_of(keypoints, boxes, logits.shape[-1])
        ((chosen,),) = places([valid.flatten()])
        if not len(chosen):
            return logits.sum() * 0
        maps, wanted = logits.flatten(0, 1).flatten(1), cells.flatten()
        total = F.cross_entropy(maps[chosen], wanted[chosen], reduction="sum")
        divisor = len(chosen) if self.divisor is None else len(samples) * self.divisor
        return total / divisor * self.loss_weight


def cells_of(keypoints: Tensor, boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Returns the cell of each keypoint, if a box is cut into `side` times `side` cells.

    A keypoint on the right or lower edge of a box is in the last cell; one outside is in no cell.

    Args:
        keypoints: (r, K, 3), x and y in pixels and visibility. boxes: (r, 4), XYXY in pixels.

    Returns:
        int64 (r, K), the cell's number, row by row from 0 to side * side - 1, or 0 for a keypoint
        without a cell; bool (r, K), whether the keypoint is labelled and in a cell.
    """
    scale = side / (boxes[:, 2:] - boxes[:, :2])
    points, last = keypoints[..., :2], boxes[:, None, 2:]
    cells = ((points - boxes[:, None, :2]) * scale[:, None]).floor().long()
    cells = torch.where(points == last, side - 1, cells)
    valid = ((cells >= 0) & (cells < side)).all(dim=-1) & (keypoints[..., 2] > 0)
    return (cells[..., 1] * side + cells[..., 0]) * valid, valid


def read_maps(logits: Tensor, boxes: Tensor) -> Tensor:
    """Returns x, y and score (r, K, 3) of the places at which maps are highest.

    The logits are (r, K, S, S), the boxes (r, 4). Each box's maps are resized to its pixels
    (bicubic) first, so that places are finer than cells. A score is the exponential at the highest
    pixel over the sum of those of the S * S cells, so that boxes of different sizes compare; it may
    be above 1.
    """
    sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    whole = sizes.ceil()
    # A pixel of the resized map is this part of a pixel of the image.
    factors = sizes / whole
    found = logits.new_zeros(*logits.shape[:2], 3)
    for row, (width, height) in enumerate(whole.int().tolist()):  # maps differ in size
        resized = F.interpolate(
            logits[row, None], size=(height, width), mode="bicubic", align_corners=False
        )
        scores = resized[0].flatten(1)
        highest, place = scores.amax(dim=1), scores.argmax(dim=1)
        column = place % width
        pixels = torch.stack([column, (place - column) // width], dim=1).float()
        found[row, :, :2] = (pixels + 0.5) * factors[row] + boxes[row, :2]
        found[row, :, 2] = 1 / (logits[row] - highest[:, None, None]).exp().sum(dim=(1, 2))
    return found


def _keypoints_of(sample: RoiSample) -> Tensor:
    """Returns the keypoints (r, K, 3) of the sampled boxes' objects."""
    if sample.targets.keypoints is None:
        raise ValueError("the objects of an image have no keypoints")  # `Detector` refuses before
    return sample.targets.keypoints[sample.gt_index]


def _in_box(keypoints: Tensor, boxes: Tensor) -> Tensor:
    """Returns bool (r, K): whether each keypoint (r, K, 3) is labelled and in its box (r, 4), edges
    too.
    """
    points = keypoints[..., :2]
    inside = (points >= boxes[:, None, :2]) & (points <= boxes[:, None, 2:])
    return inside.all(dim=-1) & (keypoints[..., 2] >= 1)
