"""A picture of what the network sees: crops and views of a few images, a PNG out.

Each row shows one image: its crops, then its views as the network gets them, rescaled for display.
In a filtered view grey is 0, "no information". Legend: V views, N images, S side of a view in
pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pretrain.common.checkpoint import atomic_write
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker

Column = tuple[str, Tensor]  # title, images (N, 3, S, S) in [0, 1]

HEADING_HEIGHT = 24
TITLE_HEIGHT = 16
GAP = 4
SMALLEST_TILE = 96


def save_view_panel(
    maker: ViewMaker, crops: Sequence[Tensor], path: str | Path, rows: int = 8, seed: int = 0
) -> Path:
    """Draws a panel of the first `rows` images of a batch and writes it as PNG.

    `crops` are V tensors uint8 `(N, 3, S, S)` on any device. The draws come only from `seed`, so a
    panel neither depends on a run's random state nor changes it. Returns the path.
    """
    crops = [crop[:rows].cpu() for crop in crops]
    views = maker(crops, torch.Generator().manual_seed(seed))
    columns: list[Column] = []
    for number, crop in enumerate(crops):
        columns.append((f"crop {number + 1}", crop.float() / 255))
    for number, view in enumerate(views):
        filtered = maker.highpasses[number] is not None
        columns.append((f"view {number + 1}", displayable(view, maker.preprocess, filtered)))
    return save_png(draw_columns(columns), path)


def save_png(image: Image.Image, path: str | Path) -> Path:
    """Writes a picture atomically and returns its path."""
    atomic_write(path, lambda target: image.save(target, format="PNG"))
    return Path(path)


def displayable(views: Tensor, preprocess: Preprocess, filtered: bool) -> Tensor:
    """Returns network input `(N, 3, S, S)` as colours in [0, 1].

    Filtered input is shown around grey, scaled per image so that 99 % of its values fit. For other
    input the normalisation is undone.
    """
    if filtered:
        reach = views.abs().flatten(1).quantile(0.99, dim=1).clamp(min=1e-6)
        shown = 0.5 + 0.5 * views / reach.view(-1, 1, 1, 1)
    else:
        low, high = preprocess.value_range
        mean = views.new_tensor(preprocess.mean).view(1, 3, 1, 1)
        std = views.new_tensor(preprocess.std).view(1, 3, 1, 1)
        shown = (views * std + mean - low) / (high - low)
    if preprocess.channel_order == "BGR":
        shown = shown.flip(1)
    return shown.clamp(0, 1)


def draw_columns(
    columns: Sequence[Column],
    heading: str = "",
    largest: int | None = None,
    background: str = "white",
) -> Image.Image:
    """Draws titled columns of images below a heading, with one row for each of the N images.

    Small images are enlarged without smoothing. If an image is larger than `largest` pixels, only
    every second, third, ... pixel is shown.
    """
    shown = [(title, _tiles(images, largest)) for title, images in columns]
    tall = max(tiles.shape[1] for _, tiles in shown)
    number = len(shown[0][1])
    top = (HEADING_HEIGHT if heading else 0) + TITLE_HEIGHT + GAP
    width = GAP + sum(tiles.shape[2] + GAP for _, tiles in shown)
    font, small = ImageFont.load_default(16), ImageFont.load_default(12)
    width = max(width, math.ceil(font.getlength(heading)) + 2 * GAP)
    panel = Image.new("RGB", (width, top + number * (tall + GAP)), background)
    draw = ImageDraw.Draw(panel)
    if heading:
        draw.text((GAP, 2), heading, fill="black", font=font)
    left = GAP
    for title, tiles in shown:
        draw.text((left, top - TITLE_HEIGHT - GAP), title, fill="black", font=small)
        for row, pixels in enumerate(tiles):
            panel.paste(Image.fromarray(pixels), (left, top + row * (tall + GAP)))
        left += tiles.shape[2] + GAP
    return panel


def _tiles(images: Tensor, largest: int | None) -> np.ndarray:
    """Images `(N, 3, S, S)` in [0, 1] as uint8 `(N, T, T, 3)`, T is the drawn side."""
    side = images.shape[-1]
    step = -(-side // largest) if largest else 1
    zoom = max(1, -(-SMALLEST_TILE // side))
    pixels = (images[..., ::step, ::step] * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy().repeat(zoom, axis=1).repeat(zoom, axis=2)
