"""Each colour operation equals torchvision's functional one, image by image."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from pretrain.data import color


@pytest.fixture
def images() -> torch.Tensor:
    """Random colours, a grey image, black, white, pure colours."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(9, 3, 8, 10, generator=generator)
    images[5] = images[5, :1]
    images[6], images[7] = 0.0, 1.0
    images[8] = 0.0
    images[8, 0, :3], images[8, 1, 2:6], images[8, 2, 5:] = 1.0, 1.0, 1.0
    return images


@pytest.mark.parametrize(
    "name, low, high",
    [("brightness", 0, 2), ("contrast", 0, 2), ("saturation", 0, 2), ("hue", -0.5, 0.5)],
)
def test_jitter_operations(images: torch.Tensor, name: str, low: float, high: float) -> None:
    factors = torch.linspace(low, high, len(images))
    reference = getattr(F, f"adjust_{name}")
    expected = torch.stack([reference(x, f.item()) for x, f in zip(images, factors)])
    torch.testing.assert_close(
        color.JITTER[name](images, factors, None), expected, atol=2e-6, rtol=0
    )


def test_grayscale_and_solarize(images: torch.Tensor) -> None:
    expected = torch.stack([F.rgb_to_grayscale(x, num_output_channels=3) for x in images])
    torch.testing.assert_close(color.grayscale(images), expected, atol=1e-6, rtol=0)
    expected = torch.stack([F.solarize(x, 0.5) for x in images])
    torch.testing.assert_close(color.solarize(images, 0.5), expected, atol=0, rtol=0)


def test_inputs_stay_untouched(images: torch.Tensor) -> None:
    before = images.clone()
    for adjust in color.JITTER.values():
        adjust(images, torch.full((len(images),), 0.3), None)
    color.grayscale(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_result_in_place_of_the_images(images: torch.Tensor, name: str) -> None:
    factors = torch.linspace(0.1, 0.4, len(images))
    expected = color.JITTER[name](images, factors, None)
    assert torch.equal(color.JITTER[name](images, factors, images), expected)
    assert torch.equal(images, expected)
