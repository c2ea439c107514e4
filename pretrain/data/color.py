"""Colour operations with one factor per image: `(N, 3, H, W)` float32 in [0, 1] in and out.

Each operation equals torchvision's `transforms.v2.functional` operation of the same name on float
tensors, image by image. Legend: N batch, H x W pixels; a factor is `(N,)`. The result is written to
`out`, a contiguous tensor of the images' shape; it may be the images themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# ITU-R 601-2 luma with torchvision's digits.
LUMA = (0.2989, 0.587, 0.114)
CPU_STRIP = 2**15  # pixels of a plane whose hue a CPU changes at once


def luma(images: Tensor) -> Tensor:
    """Returns the luma of ITU-R BT.601, `(N, 1, H, W)`, of RGB images `(N, 3, H, W)`."""
    red, green, blue = images.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def grayscale(images: Tensor) -> Tensor:
    """Returns the luma in all three channels, `(N, 3, H, W)`."""
    return luma(images).expand_as(images)


def solarize(images: Tensor, threshold: float) -> Tensor:
    """Inverts the values at or above `threshold`."""
    return torch.where(images >= threshold, 1.0 - images, images)


def _column(factor: Tensor) -> Tensor:
    return factor.view(-1, 1, 1, 1)


def adjust_brightness(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Scales each image by its factor `(N,)`, clamped to [0, 1]."""
    return torch.mul(images, _column(factor), out=out).clamp_(0.0, 1.0)


def adjust_contrast(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Blends each image with its mean luma: factor 0 is flat grey, 1 the image."""
    mean = luma(images).mean(dim=(1, 2, 3), keepdim=True)
    factor = _column(factor)
    return torch.mul(images, factor, out=out).add_(mean * (1.0 - factor)).clamp_(0.0, 1.0)


def adjust_saturation(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Blends each image with its grayscale: factor 0 is grey, 1 the image."""
    gray = grayscale(images)
    return torch.lerp(gray, images, _column(factor), out=out).clamp_(0.0, 1.0)


def adjust_hue(images: Tensor, factor: Tensor, out: Tensor | None = None) -> Tensor:
    """Turns each image's hue by its factor `(N,)`, in turns of the colour circle (-0.5 to 0.5)."""
    pixels = images.flatten(2)
    turned = torch.empty_like(pixels) if out is None else out.view(pixels.shape)
    strip = pixels.shape[2]
    if images.device.type == "cpu":
        # If the twenty temporary planes stay in the cache, they cost a third of the time.
        strip = max(256, CPU_STRIP // len(images))
    for part, target in zip(pixels.split(strip, dim=2), turned.split(strip, dim=2)):
        _turn_hue(part, factor, target)
    return turned.view(images.shape)


def _turn_hue(pixels: Tensor, factor: Tensor, out: Tensor) -> None:
    """Turn the hue of `(N, 3, P)` pixels and write them to `out`, by HSV without computing S.

    With V = max, C = max - min and h in sixths of a turn, R = min + C * clamp(|h - 3| - 1, 0, 1),
    G = min + C * clamp(2 - |h - 2|, 0, 1) and B = min + C * clamp(2 - |h - 4|, 0, 1).
    """
    red, green, blue = pixels.unbind(dim=1)
    high, low = pixels.amax(dim=1), pixels.amin(dim=1)
    chroma = high - low
    # Comparisons give 0 or 1, and `lerp` chooses: `where` is not vectorised on CPUs, 10 x slower.
    is_red = torch.eq(high, red, out=torch.empty_like(high))
    is_green = torch.eq(high, green, out=torch.empty_like(high))
    around_green = (blue - red).add_(chroma, alpha=2.0)
    around_blue = (red - green).add_(chroma, alpha=4.0)
    sixths = around_blue.lerp_(around_green, is_green).lerp_(green - blue, is_red)
    sixths.div_(chroma.clamp(min=1e-12))  # a grey pixel's hue is 0 / 1e-12, and C = 0 hides it
    sixths.add_(6.0 * factor.view(-1, 1))
    sixths.sub_((sixths / 6.0).floor_(), alpha=6.0)  # modulo 6; `remainder` is ten times slower
    wave = (sixths - 3.0).abs_().sub_(1.0)
    torch.addcmul(low, wave.clamp_(0.0, 1.0), chroma, out=out[:, 0])
    for channel, middle in ((1, 2.0), (2, 4.0)):  # with the negative wave, which is a pass less
        wave = (sixths - middle).abs_().sub_(2.0)
        torch.addcmul(low, wave.clamp_(-1.0, 0.0), chroma, value=-1.0, out=out[:, channel])


# The colour jitter's operations; the index of a name is what `AugmentParams.order` holds.
JITTER: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
