"""A fully convolutional segmenter, which predicts one class per pixel.

It has a dilated ResNet, a head of a few 3x3 convolutions with a 1x1 classifier, and bilinear
upsampling to the input's size (MoCo's FCN-16s, arXiv 1911.05722, appendix; DenseCL's FCN, mmseg's
fcn_r50-d8.py). The head of a linear probe (`linear_head.py`) and UPerNet's (`uper_head.py`) also
work on other networks. The backbone is frozen for a linear probe, and if the config says so.

Legend: N images, C channels, K classes; H, W original pixels; h, w the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.backbones.resnet import Trunk
from pretrain.common.errors import InputError
from pretrain.data.preprocess import Preprocess
from transfer.checkpoints.build import build_trunk
from transfer.segmentation.convolution import convolution
from transfer.segmentation.data import IGNORE
from transfer.segmentation.dilation import dilate
from transfer.segmentation.drop_path import add_drop_path
from transfer.segmentation.feature_maps import (
    feature_maps,
    map_width,
    maps_at,
    padded,
    side_unit,
    stage_width,
)
from transfer.segmentation.linear_head import LinearHead
from transfer.segmentation.pyramid import Pyramid
from transfer.segmentation.sliding_windows import mean_over_windows
from transfer.segmentation.uper_head import UperHead

LOSS_OVER = ("labelled", "all")
FCN, LINEAR, UPER = "fcn", "linear", "uper"


class FcnHead(nn.Module):
    """Has 3x3 convolutions, each with BN and ReLU, then dropout and a 1x1 classifier.

    `concat`: one more (undilated) convolution takes the head's input concatenated with the output
    of the others. Initialisation is as in mmseg: kaiming_normal fan_out for convolutions, normal
    0.01 for the classifier.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        num_convs: int,
        dilation: int = 1,
        concat: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * num_convs]
        self.convs = nn.Sequential(
            *(convolution(a, b, dilation=dilation) for a, b in zip(widths[:-1], widths[1:]))
        )
        self.conv_cat = convolution(in_channels + widths[-1], channels) if concat else None
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        assert self.classifier.bias is not None
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, h', w') to scores (N, K, h', w')."""
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat([x, y], dim=1))
        return self.classifier(self.dropout(y))


class Segmenter(nn.Module):
    """Maps a batch of dicts (`transforms.py`) to losses in training, and else to class maps.

    Each image is normalised and filtered separately, then padded with zeros (the mean) below and on
    the right to the batch's size; the loss ignores padding. In training the size is at least
    `crop_size`, so all batches have the same size.

    With `frozen` the backbone has no gradients and is never in training mode, so its tensors do not
    change, including the statistics of its batch norms. With a `window_stride` above 0 a test
    image is scored in windows of `crop_size`. With a `pyramid` the head takes all of its maps.

    If the test image is given in several sizes ("scaled"), or with `test_flip` also mirrored, the
    class probabilities of all passes are averaged at the original size, as mmseg does.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: FcnHead | LinearHead | UperHead,
        aux_head: FcnHead | None,
        preprocess: Preprocess,
        *,
        pyramid: Pyramid | None = None,
        crop_size: int,
        align_corners: bool,
        aux_weight: float = 0.0,
        loss_over: str = "labelled",
        frozen: bool = False,
        window_stride: int = 0,
        test_flip: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.aux_head = backbone, head, aux_head
        self.pyramid, self.test_flip = pyramid, test_flip
        self.preprocess = preprocess
        self.side_unit = side_unit(backbone) * (1 if pyramid is None else pyramid.unit)
        self.crop_size, self.align_corners = crop_size, align_corners
        self.aux_weight, self.loss_over = aux_weight, loss_over
        self.frozen, self.window_stride = frozen, window_stride
        if frozen:
            backbone.requires_grad_(False)
            self.train(self.training)

    def train(self, mode: bool = True) -> Segmenter:
        """Sets the mode of all parts; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | list[Tensor]:
        """Returns losses by name, or a list of uint8 maps (H, W) in original pixels."""
        if not self.training:
            return [self._predict(item) for item in batch]
        images, masks = self.collate(batch)
        scores = self.pixel_scores(images)
        losses = {"loss_sem_seg": pixel_loss(scores[0], masks, self.loss_over)}
        if self.aux_head is not None:
            aux = pixel_loss(scores[1], masks, self.loss_over)
            losses["loss_aux"] = self.aux_weight * aux
        return losses

    def pixel_scores(self, images: Tensor) -> list[Tensor]:
        """Maps (N, 3, h, w) to the scores (N, K, h, w) of both heads."""
        height, width = images.shape[-2:]
        images = padded(images, self.side_unit)
        scores = [self._upsample(s, images.shape[-2:]) for s in self.scores(images)]
        return [s[..., :height, :width] for s in scores]

    def scores(self, images: Tensor) -> list[Tensor]:
        """Maps (N, 3, h, w) to the scores of both heads at the resolution of the features."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.pyramid is None:
                maps = feature_maps(self.backbone, images)
            else:
                maps = maps_at(self.backbone, images, self.pyramid.places)
        if self.pyramid is None:
            scores = [self.head(maps[-1])]
        else:
            maps = self.pyramid(maps)
            scores = [self.head(maps)]
        if self.aux_head is not None and self.training:
            scores.append(self.aux_head(maps[-2]))
        return scores

    def collate(self, batch: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """Returns images float32 (N, 3, h, w) and masks int64 (N, h, w), on the model's device."""
        height = max(self.crop_size, *(item["image"].shape[1] for item in batch))
        width = max(self.crop_size, *(item["image"].shape[2] for item in batch))
        inputs, masks = [], []
        for item in batch:
            image = self._input(item["image"])
            margins = (0, width - image.shape[-1], 0, height - image.shape[-2])
            inputs.append(F.pad(image, margins))
            mask = item["mask"].to(image.device, non_blocking=True).long()
            masks.append(F.pad(mask, margins, value=IGNORE))
        images = torch.cat(inputs)
        stem = next(weight for weight in self.backbone.parameters() if weight.dim() == 4)
        if stem.is_contiguous(memory_format=torch.channels_last):
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.stack(masks)

    def _input(self, image: Tensor) -> Tensor:
        device = self.head.classifier.weight.device
        return self.preprocess.apply(image[None].to(device, non_blocking=True))

    def _predict(self, item: Mapping[str, Any]) -> Tensor:
        passes = [
            (image, flip)
            for image in item.get("scaled", [item["image"]])
            for flip in ((False, True) if self.test_flip else (False,))
        ]
        size = (item["height"], item["width"])
        total = self._test_scores(*passes[0], size)
        if len(passes) > 1:  # for one pass, scores and probabilities have the same largest class
            total = total.softmax(dim=1)
        for image, flip in passes[1:]:
            total += self._test_scores(image, flip, size).softmax(dim=1)
        return total[0].argmax(dim=0).to(torch.uint8)

    def _test_scores(self, pixels: Tensor, flip: bool, size: Sequence[int]) -> Tensor:
        """Maps uint8 (3, h, w) to scores (1, K, *size), of the mirrored image mirrored back."""
        image = self._input(pixels.flip(-1) if flip else pixels)
        # First to the input's size, as in mmseg: it matters if the test images were resized.
        if self.window_stride:
            sizes = (self.crop_size, self.window_stride)
            scores = mean_over_windows(image, lambda part: self.pixel_scores(part)[0], *sizes)
        else:
            scores = self.pixel_scores(image)[0]
        scores = self._upsample(scores, size)
        return scores.flip(-1) if flip else scores

    def _upsample(self, scores: Tensor, size: Sequence[int]) -> Tensor:
        if scores.shape[-2:] == torch.Size(size):
            return scores
        return F.interpolate(scores, tuple(size), mode="bilinear", align_corners=self.align_corners)


def pixel_loss(scores: Tensor, masks: Tensor, over: str) -> Tensor:
    """Returns the cross entropy of scores (N, K, h, w) and masks int64 (N, h, w) in this process.

    `over` "labelled": the sum over labelled pixels divided by their number (0 without any); "all":
    divided by N h w, as mmseg does, so a crop with much padding counts less.
    """
    total = F.cross_entropy(scores, masks, ignore_index=IGNORE, reduction="sum")
    count = masks.numel() if over == "all" else (masks != IGNORE).sum().clamp(min=1)
    return total / count


def build_segmenter(
    *,
    backbone: str,
    architecture: Mapping[str, Any],
    preprocess: Preprocess,
    num_classes: int,
    output_stride: int,
    contract_dilation: bool,
    head: str = FCN,
    frozen: bool = False,
    window_stride: int = 0,
    test_flip: bool = False,
    vit_blocks: Sequence[int] = (),
    drop_path: float = 0.0,
    head_convs: int,
    head_channels: int,
    head_dilation: int,
    head_concat: bool,
    dropout: float,
    aux_weight: float,
    aux_channels: int,
    crop_size: int,
    align_corners: bool,
    loss_over: str,
) -> Segmenter:
    """Returns the untrained segmenter.

    Args:
        architecture: see `transfer.checkpoints.weights.Weights`; TensorFlow's padding is not kept,
            because a dilated convolution has no such padding; the caller warns about it.
    """
    trunk = build_trunk(backbone, {k: v for k, v in architecture.items() if k != "padding"})
    classifier: FcnHead | LinearHead | UperHead
    aux_head, pyramid, aux_inputs = None, None, 0
    if isinstance(trunk, Trunk):
        dilate(trunk, output_stride, contract_dilation)
        aux_inputs = stage_width(trunk, trunk.stages[-2])
    elif head == FCN:
        raise InputError(f"an FCN needs a ResNet, not a {backbone}; give weights of a ResNet")
    if head == LINEAR:
        classifier = LinearHead(map_width(trunk), num_classes, dropout=dropout)
    elif head == UPER:
        add_drop_path(trunk, drop_path)
        pyramid = Pyramid(trunk, backbone, vit_blocks)
        aux_inputs = pyramid.widths[-2]
        classifier = UperHead(
            pyramid.widths,
            head_channels,
            num_classes,
            dropout=dropout,
            align_corners=align_corners,
        )
    else:
        classifier = FcnHead(
            map_width(trunk),
            head_channels,
            num_classes,
            num_convs=head_convs,
            dilation=head_dilation,
            concat=head_concat,
            dropout=dropout,
        )
    if aux_inputs and aux_weight > 0:
        aux_head = FcnHead(aux_inputs, aux_channels, num_classes, num_convs=1, dropout=dropout)
    return Segmenter(
        trunk,
        classifier,
        aux_head,
        preprocess,
        pyramid=pyramid,
        crop_size=crop_size,
        align_corners=align_corners,
        aux_weight=aux_weight,
        loss_over=loss_over,
        frozen=frozen,
        window_stride=window_stride,
        test_flip=test_flip,
    )


def load_backbone(model: Segmenter, state: Mapping[str, Tensor], where: str) -> None:
    """Copies all tensors of a trunk; InputError if a key or a shape differs."""
    missing, unexpected = [], []
    try:
        missing, unexpected = model.backbone.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise InputError(f"{where}: {str(error).splitlines()[-1].strip()}") from None
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise InputError(f"{where} lacks {missing[:3]} and has the additional {unexpected[:3]}")
