"""The blur equals torchvision's with a sigma per image, and refuses kernels that do not fit."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pretrain.common.errors import InputError
from pretrain.data import blur
from pretrain.data.blur import blur_rows, gaussian_blur, gaussian_kernels


@pytest.mark.parametrize("kernel, height, width", [(3, 9, 12), (11, 20, 8), (23, 40, 33)])
def test_equals_torchvision(kernel: int, height: int, width: int) -> None:
    images = torch.rand(5, 3, height, width, generator=torch.Generator().manual_seed(1))
    sigma = torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0])
    expected = torch.stack(
        [F.gaussian_blur(x, [kernel, kernel], [s.item()] * 2) for x, s in zip(images, sigma)]
    )
    torch.testing.assert_close(gaussian_blur(images, sigma, kernel), expected, atol=2e-6, rtol=0)


def test_piecewise_is_whole() -> None:
    """Large CPU batches are blurred in pieces: each image is as if it were alone."""
    images = torch.rand(7, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    sigma = torch.linspace(0.3, 2.0, 7)
    alone = torch.cat([gaussian_blur(images[i : i + 1], sigma[i : i + 1], 9) for i in range(7)])
    torch.testing.assert_close(gaussian_blur(images, sigma, 9), alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("kernel, height, width", [(1, 5, 6), (3, 9, 12), (11, 20, 8), (13, 7, 40)])
def test_columns_are_planes(number: int, kernel: int, height: int, width: int) -> None:
    """The convolution of a few images on a CPU is the grouped one, up to the order of its sums."""
    images = torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(2))
    kernels = gaussian_kernels(torch.tensor([0.4, 1.0, 3.0][:number]), kernel)
    slow = blur._blur_planes(images, kernels)
    torch.testing.assert_close(blur._blur_columns(images, kernels), slow, atol=5e-7, rtol=0)


def test_one_sigma_is_that_of_all() -> None:
    images = torch.rand(7, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    expected = gaussian_blur(images, torch.full((7,), 1.7), 9)
    torch.testing.assert_close(gaussian_blur(images, 1.7, 9), expected, atol=1e-6, rtol=0)


def test_rows_are_blurred_in_place() -> None:
    images = torch.rand(5, 3, 24, 20, generator=torch.Generator().manual_seed(1))
    rows, sigma = torch.tensor([3, 0]), torch.tensor([2.0, 0.7])
    expected = images.clone()
    expected[rows] = gaussian_blur(images[rows], sigma, 7)
    blur_rows(images, rows, sigma, 7)
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)
    assert torch.equal(images[[1, 2, 4]], expected[[1, 2, 4]])
    blur_rows(images, rows[:0], sigma[:0], 7)


def test_empty_batch() -> None:
    assert gaussian_blur(torch.zeros(0, 3, 8, 8), torch.zeros(0), 3).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("kernel, match", [(4, "odd"), (0, "odd"), (17, "at most 15")])
def test_bad_kernel(kernel: int, match: str) -> None:
    with pytest.raises(InputError, match=match):
        gaussian_blur(torch.zeros(1, 3, 8, 8), torch.ones(1), kernel)
