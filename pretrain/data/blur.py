"""Gaussian blur of a batch with one sigma per image: `(N, C, H, W)` floats in, the same shape out.

Legend: N batch, C channels, H x W pixels, K kernel size (odd, pixels). The kernel is the one of
`torchvision.transforms.v2.functional.gaussian_blur` (sampled at pixel centres, normalised), with
its reflecting border. The kernel is separable: two depthwise passes of K taps replace K x K taps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.common.device_copy import send
from pretrain.common.errors import InputError

REACH = 5.5  # in sigmas: the kernel is cut there, since exp(-5.5^2 / 2) = 3e-7
CPU_PIECE = 2**19  # elements of the pieces that a CPU blurs at once (2 MiB)
LANES = 16  # planes that oneDNN's depthwise convolution computes at once, even if there are fewer
FULL_LANES = 0.7  # above this share of used lanes, the convolution of planes is faster


def gaussian_kernels(sigma: Tensor, kernel_size: int) -> Tensor:
    """Returns one normalised Gaussian per entry, `(N, K)`, of sigmas `(N,)` in pixels."""
    half = (kernel_size - 1) / 2
    taps = torch.linspace(-half, half, kernel_size, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    return weights / weights.sum(dim=1, keepdim=True)


def check_kernel(kernel_size: int, size: int) -> None:
    """Raises `InputError` for an even kernel, or one too large to reflect an image of `size` px."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"blur kernel size {kernel_size} must be a positive odd number of pixels")
    if kernel_size // 2 >= size:
        raise InputError(
            f"blur kernel of {kernel_size} px is too large for images of {size} px;"
            f" give at most {2 * size - 1}"
        )


def gaussian_blur(images: Tensor, sigma: Tensor | float, kernel_size: int) -> Tensor:
    """Blurs each image with its own sigma, or all images with one sigma.

    The images are `(N, C, H, W)` float32, as the result is; sigma is `(N,)` in pixels, or one
    number. Raises `InputError` when the kernel is even or does not fit the image.
    """
    check_kernel(kernel_size, min(images.shape[-2:]))
    if images.shape[0] == 0:
        return images.clone()
    if images.device.type == "cpu":
        if not isinstance(sigma, Tensor):
            return _blur_alike(images, torch.tensor([sigma]).to(images), kernel_size)
        blurred = torch.empty_like(images)
        rows = torch.arange(len(images))
        _blur_in_pieces(images, rows, sigma.to(images), kernel_size, blurred)
        return blurred
    # The kernels are computed where the sigmas are, usually on the CPU, and sent in one copy.
    sigma = sigma if isinstance(sigma, Tensor) else torch.tensor([sigma])
    kernels = gaussian_kernels(sigma.to(images.dtype), kernel_size)
    return _blur_planes(images, send(kernels, images.device))


def blur_rows(images: Tensor, rows: Tensor, sigma: Tensor, kernel_size: int) -> None:
    """Blurs, in place, the images number `rows` of a batch on a CPU.

    images `(N, C, H, W)` float32, rows `(M,)` int64, sigma `(M,)` in pixels. Raises `InputError`
    when the kernel is even or does not fit the image.
    """
    check_kernel(kernel_size, min(images.shape[-2:]))
    if len(rows):
        _blur_in_pieces(images, rows, sigma.to(images), kernel_size, images)


def _blur_in_pieces(
    images: Tensor, rows: Tensor, sigma: Tensor, kernel_size: int, out: Tensor
) -> None:
    """Blur `images[rows]` into `out[rows]`, in pieces that fit a CPU's cache. The images of a piece
    have similar sigmas, so its kernels can be short: the part beyond `REACH` sigmas is below
    float32's resolution."""
    for picked in sigma.argsort().split(max(1, CPU_PIECE // images[0].numel())):
        kernels = gaussian_kernels(sigma[picked], _reach(float(sigma[picked[-1]]), kernel_size))
        places = rows[picked]
        piece = images.index_select(0, places)
        planes = piece.shape[0] * piece.shape[1]
        full = planes / (math.ceil(planes / LANES) * LANES) > FULL_LANES
        blurred = _blur_planes(piece, kernels) if full else _blur_columns(piece, kernels)
        out.index_copy_(0, places, blurred)


def _blur_alike(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur images on a CPU, all with the same sigma `(1,)`. They are convolved as if they were
    planes of one image."""
    kernel = gaussian_kernels(sigma, _reach(float(sigma), kernel_size))
    number = max(1, CPU_PIECE // images[0].numel())
    if number >= len(images):
        planes = images.reshape(1, -1, *images.shape[2:])
        return _blur_columns(planes, kernel).view_as(images)
    out = torch.empty_like(images)
    for piece, target in zip(images.split(number), out.split(number)):
        target.copy_(_blur_alike(piece, sigma, kernel_size))
    return out


def _reach(sigma: float, kernel_size: int) -> int:
    """Returns the size of the part of a kernel that differs from zero in float32."""
    return min(kernel_size, 2 * math.ceil(REACH * sigma) + 1)


def _blur_planes(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve `(N, C, H, W)` with `kernels (N, K)`, or with one `(1, K)`, along both axes, each
    plane separately."""
    n, c, h, w = images.shape
    pad = kernels.shape[1] // 2
    kernels = kernels.repeat_interleave(n * c // len(kernels), dim=0)
    # One group per image and channel: every plane is convolved with its own image's kernel.
    planes = F.pad(images, (pad, pad, pad, pad), mode="reflect")
    planes = planes.reshape(1, n * c, h + 2 * pad, w + 2 * pad)
    # Autocast would run the convolution in bfloat16, whose error exceeds what the filter leaves.
    with torch.autocast(images.device.type, enabled=False):
        planes = F.conv2d(planes, kernels[:, None, None, :], groups=n * c)
        planes = F.conv2d(planes, kernels[:, None, :, None], groups=n * c)
    return planes.view(n, c, h, w)


def _blur_columns(images: Tensor, kernels: Tensor) -> Tensor:
    """Returns the same as `_blur_planes`, by a convolution whose lanes are neighbouring pixels.

    It is for a CPU when there are too few images to fill the lanes with planes. Each pass runs
    along the columns of all images, placed next to each other; between the passes they are
    transposed.
    """
    rows = _convolve_columns(images.permute(1, 3, 0, 2), kernels)
    return _convolve_columns(rows.permute(0, 3, 2, 1), kernels).permute(2, 0, 1, 3).contiguous()


def _convolve_columns(columns: Tensor, kernels: Tensor) -> Tensor:
    """Convolve `(C, L, N, M)` along L with `kernels (N, K)`, one of each image's M columns."""
    c, length, n, m = columns.shape
    k = kernels.shape[1]
    pad = k // 2
    bordered = columns.new_empty(c, length + 2 * pad, n, m)
    bordered[:, pad : pad + length] = columns
    bordered[:, :pad] = bordered[:, pad + 1 : 2 * pad + 1].flip(1)
    bordered[:, pad + length :] = bordered[:, length - 1 : pad + length - 1].flip(1)
    # (C, N * M, 1, L), with N * M last in memory: the layout that oneDNN maps to its lanes
    lanes = bordered.view(c, -1, n * m).transpose(1, 2).unsqueeze(2)
    weights = kernels.repeat_interleave(m, dim=0).view(n * m, 1, 1, k)
    with torch.autocast("cpu", enabled=False):
        lanes = F.conv2d(lanes, weights, groups=n * m)
    return lanes.squeeze(2).transpose(1, 2).contiguous().view(c, length, n, m)
