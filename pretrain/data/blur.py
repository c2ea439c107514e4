"""Gaussian blur of a batch with one sigma per image: `(N, C, H, W)` floats in, the same shape out.

Legend: N batch, C channels, H x W pixels, K kernel size (odd, pixels). The kernel is the one of
`torchvision.transforms.v2.functional.gaussian_blur` (sampled at pixel centres, normalised), with
its reflecting border. It is separable: two depthwise passes of K taps in place of K x K.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.errors import InputError

REACH = 5.5  # sigmas; exp(-5.5^2 / 2) = 3e-7
CPU_PIECE = 2**19  # elements of the pieces that a CPU blurs at once (2 MiB)


def gaussian_kernels(sigma: Tensor, kernel_size: int) -> Tensor:
    """One normalised Gaussian per entry: sigma `(N,)` in pixels -> `(N, K)`."""
    half = (kernel_size - 1) / 2
    taps = torch.linspace(-half, half, kernel_size, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def check_kernel(kernel_size: int, size: int) -> None:
    """Raise `InputError` for an even kernel, or one too large to reflect an image of `size` px."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"blur kernel size {kernel_size} must be a positive odd number of pixels")
    if kernel_size // 2 >= size:
        raise InputError(
            f"blur kernel of {kernel_size} px is too large for images of {size} px;"
            f" at most {2 * size - 1}"
        )


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur each image with its own sigma.

    images `(N, C, H, W)` float32, sigma `(N,)` in pixels -> `(N, C, H, W)`.
    Raises `InputError` when the kernel is even or does not fit the image.
    """
    check_kernel(kernel_size, min(images.shape[-2:]))
    if images.shape[0] == 0:
        return images.clone()
    if images.device.type == "cpu":
        return _blur_in_pieces(images, sigma.to(images), kernel_size)
    sigma = sigma.to(images, non_blocking=True)  # a GPU takes it when it comes to it
    return _blur(images, gaussian_kernels(sigma, kernel_size))


def _blur_in_pieces(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Pieces that fit a CPU's cache, each of similar sigmas, with kernels as short as they may
    be: what is beyond `REACH` sigmas is below float32's resolution."""
    blurred = torch.empty_like(images)
    for rows in sigma.argsort().split(max(1, CPU_PIECE // images[0].numel())):
        reach = math.ceil(REACH * float(sigma[rows[-1]]))
        kernels = gaussian_kernels(sigma[rows], min(kernel_size, 2 * reach + 1))
        blurred.index_copy_(0, rows, _blur(images.index_select(0, rows), kernels))
    return blurred


def _blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve `(N, C, H, W)` with `kernels (N, K)` along both axes."""
    n, c, h, w = images.shape
    pad = kernels.shape[1] // 2
    kernels = kernels.repeat_interleave(c, dim=0)
    # One group per image and channel: every plane is convolved with its own image's kernel.
    planes = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    planes = planes.reshape(1, n * c, h + 2 * pad, w + 2 * pad)
    # Autocast would run the convolution in bfloat16, whose error exceeds what the filter leaves.
    with torch.autocast(images.device.type, enabled=False):
        planes = F.conv2d(planes, kernels[:, None, None, :], groups=n * c)
        planes = F.conv2d(planes, kernels[:, None, :, None], groups=n * c)
    return planes.view(n, c, h, w)
