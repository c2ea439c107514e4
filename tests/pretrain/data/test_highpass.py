"""The high-pass filter is the image minus torchvision's blur; a constant image becomes 0."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pretrain.common.errors import InputError
from pretrain.data.highpass import HighPass, highpass


@pytest.mark.parametrize("kernel, sigma", [(11, 5.0), (3, 1.5), (5, 0.4)])
def test_equals_image_minus_blur(kernel: int, sigma: float) -> None:
    images = torch.randn(4, 3, 24, 17, generator=torch.Generator().manual_seed(0))
    expected = images - F.gaussian_blur(images, [kernel, kernel], [sigma, sigma])
    torch.testing.assert_close(highpass(images, kernel, sigma), expected, atol=2e-6, rtol=0)


def test_constant_image_becomes_zero() -> None:
    """Also at the border, which reflects, and for values as large as a normalised white."""
    images = torch.tensor([-2.1, 0.0, 0.5, 2.64]).view(4, 1, 1, 1).expand(4, 3, 32, 32)
    assert highpass(images, 11, 5.0).abs().max() < 1e-5


def test_float32_under_autocast() -> None:
    images = torch.full((1, 3, 16, 16), 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        filtered = highpass(images, 11, 5.0)
    assert filtered.dtype == torch.float32 and filtered.abs().max() < 1e-5


@pytest.mark.parametrize(
    "wrong, match",
    [({"kernel_size": 4}, "odd"), ({"sigma": 0.0}, "sigma"), ({"border": "zero"}, "border")],
)
def test_bad_settings(wrong: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        HighPass(**wrong)


def test_kernel_larger_than_the_image() -> None:
    with pytest.raises(InputError, match="too large"):
        HighPass(11).check(5)
    with pytest.raises(InputError, match="too large"):
        highpass(torch.zeros(1, 3, 5, 5), 11, 5.0)
