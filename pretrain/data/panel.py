"""A picture of what the network sees: crops and views of a few images, a PNG out.

One row per image: its crops, then its views as the network gets them, rescaled for display. In a
filtered view grey is 0, "no information". Legend: V views, N images, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from pretrain.common.checkpoint import atomic_write
from pretrain.data.preprocess import Preprocess
from pretrain.data.views import ViewMaker

TITLE_HEIGHT = 16
GAP = 4
SMALLEST_TILE = 96


def save_view_panel(
    maker: ViewMaker, crops: Sequence[Tensor], path: str | Path, rows: int = 8, seed: int = 0
) -> Path:
    """Draw a panel of the first `rows` images of a batch and write it as PNG.

    V crops uint8 `(N, 3, S, S)` on any device; the draws come from `seed` alone, so that a panel
    neither depends on a run's randomness nor disturbs it. Returns the path.
    """
    crops = [crop[:rows].cpu() for crop in crops]
    views = maker(crops, torch.Generator().manual_seed(seed))
    columns: list[tuple[str, Tensor]] = []
    for number, crop in enumerate(crops):
        columns.append((f"crop {number + 1}", crop.float() / 255))
    for number, view in enumerate(views):
        filtered = maker.highpasses[number] is not None
        columns.append((f"view {number + 1}", displayable(view, maker.preprocess, filtered)))
    image = _assemble(columns)
    atomic_write(path, lambda target: image.save(target, format="PNG"))
    return Path(path)


def displayable(views: Tensor, preprocess: Preprocess, filtered: bool) -> Tensor:
    """Network input `(N, 3, S, S)` as colours in [0, 1].

    Filtered input is shown around grey, scaled per image so that 99 % of its values fit; other
    input has its normalisation undone.
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


def _assemble(columns: list[tuple[str, Tensor]]) -> Image.Image:
    """Titled columns of `(N, 3, S, S)` images in [0, 1], small ones enlarged without smoothing."""
    number, _, side, _ = columns[0][1].shape
    tile = side * max(1, -(-SMALLEST_TILE // side))
    width = len(columns) * (tile + GAP) + GAP
    height = number * (tile + GAP) + GAP + TITLE_HEIGHT
    panel = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(panel)
    for column, (title, images) in enumerate(columns):
        left = GAP + column * (tile + GAP)
        draw.text((left, 2), title, fill="black")
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for row, values in enumerate(pixels):
            small = Image.fromarray(np.ascontiguousarray(values))
            top = TITLE_HEIGHT + GAP + row * (tile + GAP)
            panel.paste(small.resize((tile, tile), Image.Resampling.NEAREST), (left, top))
    return panel
