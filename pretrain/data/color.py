"""Colour operations with one factor per image: `(N, 3, H, W)` float32 in [0, 1] in and out.

Each equals torchvision's `transforms.v2.functional` operation of the same name on float tensors,
image by image. Legend: N batch, H x W pixels; a factor is `(N,)`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# ITU-R 601-2 luma with torchvision's digits.
LUMA = (0.2989, 0.587, 0.114)


def luma(images: Tensor) -> Tensor:
    """Brightness of each pixel: `(N, 3, H, W)` -> `(N, 1, H, W)`."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def grayscale(images: Tensor) -> Tensor:
    """Luma in all three channels, `(N, 3, H, W)`."""
    return luma(images).expand_as(images)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Invert the values at or above `threshold`."""
    return torch.where(images >= threshold, 1.0 - images, images)


def _column(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Scale each image by its factor `(N,)`, clamped to [0, 1]."""
    return (images * _column(factor)).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its mean luma: factor 0 is flat grey, 1 the image."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean.expand_as(images), images, _column(factor)).clamp_(0.0, 1.0)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend each image with its grayscale: factor 0 is grey, 1 the image."""
    gray = grayscale(images)
    return torch.lerp(gray, images, _column(factor)).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn each image's hue by its factor `(N,)`, in turns of the colour circle (-0.5 to 0.5).

    HSV without the detour over S: with V = max, C = max - min and h in sixths of a turn,
    R = min + C * clamp(|h - 3| - 1, 0, 1), and likewise for G around 2 and B around 4.
    """
    red, green, blue = images.unbind(dim=1)
    high, low = images.amax(dim=1), images.amin(dim=1)
    chroma = high - low
    safe = torch.where(chroma == 0, 1.0, chroma)  # grey pixels: hue is 0 / 1, and C = 0 hides it
    sixths = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    sixths = (sixths + 6.0 * factor.view(-1, 1, 1)).remainder_(6.0)
    out = torch.empty_like(images)
    out[:, 0] = (sixths - 3.0).abs_().sub_(1.0).clamp_(0.0, 1.0).mul_(chroma).add_(low)
    out[:, 1] = (sixths - 2.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0).mul_(chroma).add_(low)
    out[:, 2] = (sixths - 4.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0).mul_(chroma).add_(low)
    return out


# The colour jitter's operations; the index of a name is what `AugmentParams.order` holds.
JITTER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
