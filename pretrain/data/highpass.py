"""MSCN's high-pass filter: image minus its Gaussian blur, `(N, C, H, W)` float32 in and out.

After the filter the value 0 means "no information", so a mask of zeros does not create an edge in
an image (arXiv 2206.07700). The article does not name a filter. Kernel 11 and sigma 5 come from the
third-party MSCN (joycenerd/Saliency-Guided-Masking-for-ConvNets, `Dataset/random_mask_hp.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.common.errors import InputError
from pretrain.data.blur import check_kernel, gaussian_blur


@dataclass(frozen=True)
class HighPass:
    """Holds the filter's settings; kernel size and sigma are in pixels of the network's input.

    The article gives no values; the defaults are our choice, those of the third-party MSCN, made
    for 224 px. Raises `InputError` for an even kernel, a sigma that is not positive, or a border
    that is not "reflect".
    """

    kernel_size: int = 11
    sigma: float = 5.0
    border: str = "reflect"

    def __post_init__(self) -> None:
        if self.border != "reflect":
            raise InputError(f"high-pass border {self.border!r} is unknown; known: reflect")
        if self.sigma <= 0:
            raise InputError(f"high-pass sigma {self.sigma} must be above 0 pixels")
        check_kernel(self.kernel_size, self.kernel_size)

    def check(self, size: int) -> None:
        """Raises `InputError` when the kernel does not fit images of `size` px."""
        check_kernel(self.kernel_size, size)

    def apply(self, images: Tensor) -> Tensor:
        """Filters images `(N, C, H, W)`; the result is float32 and has the same shape."""
        return highpass(images, self.kernel_size, self.sigma)

    def to_dict(self) -> dict[str, int | float | str]:
        """Returns plain Python values, for a checkpoint's `preprocess`."""
        return {
            "kernel_size": int(self.kernel_size),
            "sigma": float(self.sigma),
            "border": self.border,
        }


def highpass(images: Tensor, kernel_size: int, sigma: float) -> Tensor:
    """Returns `x - GaussianBlur(x)` in float32, with a reflecting border and without a clamp.

    The images are `(N, C, H, W)`, and the result has the same shape. A constant image becomes 0.
    Raises `InputError` when the kernel does not fit the image.
    """
    images = images.float()
    blurred = gaussian_blur(images, float(sigma), kernel_size)
    # Written over the blurred images, unless a gradient needs them.
    return torch.sub(images, blurred, out=None if blurred.requires_grad else blurred)
