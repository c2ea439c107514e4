"""Central crops against torchvision's transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from pretrain.common.errors import InputError
from pretrain.data.decode import decode_image
from transfer.classification.crops import ImageTransform, collate


def _image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("width, height", [(50, 31), (31, 50), (20, 20), (16, 47), (33, 16)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_torchvisions(width: int, height: int, interpolation: str) -> None:
    image = _image(width, height)
    ours = ImageTransform(resize=16, size=14, interpolation=interpolation).apply(image)
    reference = v2.Compose(
        [v2.Resize(16, v2.InterpolationMode(interpolation)), v2.CenterCrop(14), v2.PILToTensor()]
    )
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, reference(image))


@pytest.mark.parametrize("width, height", [(3, 450), (450, 3), (2, 160), (160, 2)])
def test_crops_of_strips_are_torchvisions(width: int, height: int) -> None:
    image = _image(width, height)
    reference = v2.Compose([v2.Resize(16), v2.CenterCrop(14), v2.PILToTensor()])
    found = ImageTransform(16, 14).apply(image)
    assert (found.int() - reference(image).int()).abs().max() <= 1


def test_a_crop_of_a_very_long_image_does_not_fill_the_memory() -> None:
    """If the full image were resized, it would need 256 x 76,800,000 pixels."""
    found = ImageTransform(256, 224).apply(Image.new("RGB", (300_000, 1), (9, 8, 7)))
    assert found.shape == (3, 224, 224) and found[:, 0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize("width, height", [(50, 31), (31, 50), (20, 20)])
def test_squashed_images_are_vissls(width: int, height: int) -> None:
    """Resized twice: the shorter side to 16 px, then the full image to 14 x 14."""
    reference = v2.Compose([v2.Resize(16), v2.Resize((14, 14)), v2.PILToTensor()])
    image = _image(width, height)
    assert torch.equal(ImageTransform(16, 14, squash=True).apply(image), reference(image))


@pytest.mark.parametrize("squash", [False, True])
def test_gray_is_the_crop_of_the_gray_image_saved_as_a_file(squash: bool, tmp_path: Path) -> None:
    image = _image(50, 31)
    image.convert("L").save(tmp_path / "gray.png")
    found = ImageTransform(16, 14, squash=squash, gray=True).apply(image)
    saved = decode_image(str(tmp_path / "gray.png"))
    assert torch.equal(found, ImageTransform(16, 14, squash=squash).apply(saved))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert not torch.equal(found, ImageTransform(16, 14, squash=squash).apply(image))


def test_bad_transform() -> None:
    with pytest.raises(InputError, match="IMAGE_SIZE 32"):
        ImageTransform(resize=16, size=32)
    with pytest.raises(InputError, match="did you mean 'bicubic'"):
        ImageTransform(resize=16, size=16, interpolation="bicubi")


def test_collate_passes_the_first_error_on() -> None:
    crop = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert collate([crop, crop]).shape == (2, 3, 2, 2)
    assert collate([crop, "a.png is torn", "b.png"]) == "a.png is torn"
