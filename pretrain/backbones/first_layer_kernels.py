"""First-layer kernels: a network's weights in, the blank kernels and a picture of all kernels out.

MSCN's article (arXiv 2206.07700) shows that with a plain mask many kernels of the first layer
collapse to blank ones, because edge kernels respond to the mask's "parasitic" edges. It does not
define "blank". Our definition: a kernel is **blank** if its L2 norm is below a share (10 %) of the
layer's reference, which is the 90th percentile of its kernels' norms. A median would collapse too
if half of the kernels did, and a maximum would depend on one kernel. Kernels at their initial
values are never blank, because their norms differ by only a few tens of percent. A kernel that is
not blank is **flat** if its pattern has less than that share of the kernel's own norm. The pattern
is what remains after subtracting each channel's mean over space. A flat kernel can see a colour but
not an edge. Batch norm can rescale a blank kernel's output. So the count describes how the layer
looks; it does not say that the channel is dead.

Legend: K kernels of h x w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pretrain.common.errors import InputError

BLANK_BELOW = 0.1  # our choice
REFERENCE_QUANTILE = 0.9  # our choice
BORDER, FRAME = (245, 245, 245), (220, 0, 0)
LINE_HEIGHT, GAP = 20, 10


@dataclass(frozen=True)
class KernelFacts:
    """Norms of K kernels and the judgement of each: `norms (K,)`, `blank (K,)` and `flat (K,)`
    bool, the `reference` norm, and the share `blank_below` of it, below which kernels are blank."""

    norms: Tensor
    blank: Tensor
    flat: Tensor
    reference: float
    blank_below: float

    def summary(self) -> str:
        """Returns one line for people."""
        blank, flat = int(self.blank.sum()), int(self.flat.sum())
        rule = f"norm below {self.blank_below:.3g} of the reference {self.reference:.3g}"
        return f"{blank} of {len(self.norms)} kernels blank ({rule}), {flat} flat"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins: counts, norms, and the indices of blank kernels, counted from
        0.
        """
        return {
            "kernels": len(self.norms),
            "blank": int(self.blank.sum()),
            "flat": int(self.flat.sum()),
            "blank_below": self.blank_below,
            "reference": self.reference,
            "blank_kernels": self.blank.nonzero().flatten().tolist(),
            "norms": self.norms.tolist(),
        }


def first_layer(state: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """Returns the name and kernels `(K, 3, h, w)` of the first convolution that reads colours.

    Raises:
        InputError: there is no such convolution, or its values are not finite.
    """
    for name, tensor in state.items():
        if tensor.dim() == 4 and tensor.shape[1] == 3 and tensor.is_floating_point():
            if not tensor.isfinite().all():
                raise InputError(
                    f"{name} has values that are not finite: the training diverged; give another "
                    "checkpoint"
                )
            return name, tensor.detach().float().cpu()
    raise InputError(
        f"there is no convolution with 3 input channels among {len(state)} tensors; give the "
        "weights of a convolutional network"
    )


def judge_kernels(kernels: Tensor, blank_below: float = BLANK_BELOW) -> KernelFacts:
    """Returns which of the kernels `(K, 3, h, w)` are blank, and which are flat (see the
    module).
    """
    norms = kernels.flatten(1).norm(dim=1)
    reference = torch.quantile(norms, REFERENCE_QUANTILE).item()
    # A layer of zeros has no reference to compare with: all of its kernels are blank.
    blank = (norms < blank_below * reference) | (norms == 0)
    pattern = (kernels - kernels.mean(dim=(2, 3), keepdim=True)).flatten(1).norm(dim=1)
    flat = ~blank & (pattern < blank_below * norms)
    return KernelFacts(norms, blank, flat, reference, blank_below)


def kernel_sheet(kernels: Tensor, facts: KernelFacts, title: str, cell: int = 40) -> Image.Image:
    """Draws the kernels `(K, 3, h, w)` twice, as RGB around mid grey: each kernel on its own scale
    (shape), and all on one scale (strength). There blank kernels are grey; they are framed."""
    values, frames = kernels.numpy(), facts.blank.numpy()
    zoom = max(1, cell // values.shape[-1])
    peaks = np.abs(values).max(axis=(1, 2, 3))
    # The 98th percentile of the peaks: one outlying kernel does not turn all others grey.
    common = np.full_like(peaks, np.quantile(peaks, 0.98))
    parts = {
        "each on its own scale": tile_kernels(values, peaks, zoom, frames),
        "all on one scale, blank framed": tile_kernels(values, common, zoom, frames),
    }
    font = ImageFont.load_default(LINE_HEIGHT * 2 // 3)
    lines = [title, facts.summary()]
    side = max([part.shape[1] for part in parts.values()] + [int(font.getlength(t)) for t in parts])
    width = max([2 * side + GAP] + [int(font.getlength(line)) + 1 for line in lines]) + 2 * GAP
    height = 3 * LINE_HEIGHT + next(iter(parts.values())).shape[0] + 2 * GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((GAP, GAP // 2 + number * LINE_HEIGHT), line, fill="black", font=font)
    for number, (name, pixels) in enumerate(parts.items()):
        left, top = GAP + number * (side + GAP), GAP + 2 * LINE_HEIGHT
        draw.text((left, top), name, fill="black", font=font)
        sheet.paste(Image.fromarray(pixels), (left, top + LINE_HEIGHT))
    return sheet


def tile_kernels(
    kernels: np.ndarray, scales: np.ndarray, zoom: int, frames: np.ndarray | None = None
) -> np.ndarray:
    """Returns a picture of kernels, about square, with two light pixels between cells.

    Args:
        kernels: (K, 3, h, w) float.
        scales: (K,), for each kernel the absolute value that is shown as black or full colour.
        zoom: side of a weight in pixels.
        frames: (K,) bool, True for kernels with a red border.

    Returns:
        uint8 (H, W, 3).
    """
    count, _, height, width = kernels.shape
    scales = np.where(scales > 0, scales, 1.0).reshape(-1, 1, 1, 1)
    scaled = np.clip(kernels / scales, -1.0, 1.0)
    pixels = np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = pixels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    # 8 columns for 32 kernels, and 8 for 64
    columns = 1 << (max(1, count - 1).bit_length() + 1) // 2
    lines = -(-count // columns)
    cell_h, cell_w = height * zoom + 2, width * zoom + 2
    sheet = np.full((lines * cell_h, columns * cell_w, 3), BORDER, np.uint8)
    for index, kernel in enumerate(pixels):
        top, left = index // columns * cell_h, index % columns * cell_w
        if frames is not None and frames[index]:
            sheet[top : top + cell_h, left : left + cell_w] = FRAME
        sheet[top + 1 : top + cell_h - 1, left + 1 : left + cell_w - 1] = kernel
    return sheet
