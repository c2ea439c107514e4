"""Crops, views and masks of a few images side by side: tensors in, pictures to compare out.

There is one row per image and three columns per view: its crop, the view as the network gets it
(rescaled for display), and its mask. The mask is black for kept pixels, white if all three channels
are masked, and otherwise has the colours of the masked channels. Legend: V views, N images, S side
of a view in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from pretrain.data.masking import MaskParams
from pretrain.data.views import ViewMaker
from pretrain.data.views_picture import Column, displayable

PAGE = "gainsboro"  # white already means a masked pixel
LEGEND = "mask: black is kept, white masked, a colour masked in that channel"


def view_columns(maker: ViewMaker, crops: Sequence[Tensor], seed: int) -> list[Column]:
    """Returns the columns of V crops uint8 `(N, 3, S, S)`; augmentation and masks are drawn from
    `seed`.

    The same images, seed and number of images give the same draws with any config, so pictures of
    two configs can be compared image by image.
    """
    views = maker(crops, torch.Generator().manual_seed(seed))
    masks = maker.masks_of(crops, torch.Generator().manual_seed(seed))
    columns: list[Column] = []
    for view, crop in enumerate(crops):
        filtered = maker.highpasses[view] is not None
        shown = displayable(views[view], maker.preprocess, filtered)
        mask = mask_colours(masks[view], crop)
        if maker.preprocess.channel_order == "BGR":
            mask = mask.flip(1)
        named = (("crop", crop.float() / 255), ("view", shown), ("mask", mask))
        columns += [(f"{name} {view + 1}", images) for name, images in named]
    return columns


def mask_colours(params: MaskParams | None, crop: Tensor) -> Tensor:
    """Returns a mask as an image `(N, 3, S, S)` of zeros (kept) and ones (masked), in the shape of
    `crop`. None masks nothing.
    """
    return torch.zeros(crop.shape) if params is None else params.mask.float()


def stack_sheets(sheets: Sequence[Image.Image], gap: int = 12) -> Image.Image:
    """Pictures one below the other on PAGE, `gap` pixels apart."""
    height = sum(sheet.height + gap for sheet in sheets) - gap
    stacked = Image.new("RGB", (max(sheet.width for sheet in sheets), height), PAGE)
    top = 0
    for sheet in sheets:
        stacked.paste(sheet, (0, top))
        top += sheet.height + gap
    return stacked
