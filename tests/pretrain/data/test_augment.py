"""The batched augmentation against torchvision's functional operations, one image at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from pretrain.common.errors import InputError
from pretrain.data import color
from pretrain.data.augment import AugmentParams, ViewRecipe, apply_augment, sample_params

FULL = ViewRecipe(solarize_prob=0.3, blur_sigma=(0.1, 2.0), blur_kernel=5)


def reference(image: Tensor, params: AugmentParams, i: int, recipe: ViewRecipe) -> Tensor:
    """One image by torchvision, in the order that the module's docstring states."""
    operations = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    factors = [params.brightness, params.contrast, params.saturation, params.hue]
    if params.jitter[i]:
        for number in params.order[i].tolist():
            image = operations[number](image, factors[number][i].item())
    if params.gray[i]:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if params.blur[i]:
        kernel = recipe.kernel_size(image.shape[-1])
        image = F.gaussian_blur(image, [kernel, kernel], [params.sigma[i].item()] * 2)
    if params.solarize[i]:
        image = F.solarize(image, recipe.solarize_threshold)
    if params.flip[i]:
        image = F.horizontal_flip(image)
    return image


def close(got: Tensor, expected: Tensor) -> None:
    """Equal up to rounding; solarise may flip a value that rounding moved over its threshold."""
    assert ((got - expected).abs() > 1e-5).float().mean() < 1e-4


@pytest.mark.parametrize("recipe", [ViewRecipe(), FULL, ViewRecipe(brightness=0.0, hue=0.1)])
def test_composite_equals_torchvision(recipe: ViewRecipe) -> None:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(48, 3, 24, 24, generator=generator)
    params = sample_params(recipe, len(images), generator)
    before = images.clone()
    got = apply_augment(images, params, recipe)
    assert torch.equal(images, before), "the input is not changed"
    if recipe.brightness == 0:
        assert torch.equal(params.brightness, torch.ones(48))
    for i, image in enumerate(images):
        close(got[i], reference(image, params, i, recipe))


def test_large_images_in_pieces() -> None:
    recipe = ViewRecipe(flip_prob=1.0, jitter_prob=1.0, gray_prob=1.0)
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(6, 3, 200, 200, generator=generator)
    params = sample_params(recipe, 6, generator)
    got = apply_augment(images, params, recipe)
    for i in (0, 5):
        close(got[i], reference(images[i], params, i, recipe))
    assert not torch.equal(got, images)


def test_draws() -> None:
    recipe = replace(FULL, contrast=0.4, saturation=1.5, hue=0.1)
    n = 20_000
    params = sample_params(recipe, n, torch.Generator().manual_seed(0))
    again = sample_params(recipe, n, torch.Generator().manual_seed(0))
    assert all(torch.equal(getattr(params, k), getattr(again, k)) for k in vars(params))
    for name in ("flip", "jitter", "gray", "blur", "solarize"):
        share = getattr(params, name).float().mean().item()
        assert share == pytest.approx(getattr(recipe, f"{name}_prob"), abs=0.015), name
    ranges = {"brightness": (0.2, 1.8), "contrast": (0.6, 1.4), "saturation": (0.0, 2.5)}
    for name, (low, high) in {**ranges, "hue": (-0.1, 0.1), "sigma": (0.1, 2.0)}.items():
        drawn, edge = getattr(params, name), 2e-3 * (high - low)
        assert (
            low - 1e-6 <= drawn.min() < low + edge and high - edge < drawn.max() <= high + 1e-6
        ), name
        assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=5 * edge), name
    # Each of the 24 orders is as frequent as another.
    codes = (params.order * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24 and counts.min() > 0.8 * n / 24


def test_no_augmentation_is_the_identity() -> None:
    images = torch.rand(4, 3, 8, 8)
    recipe = ViewRecipe.none()
    params = sample_params(recipe, 4, torch.Generator().manual_seed(0))
    assert torch.equal(apply_augment(images, params, recipe), images)


@pytest.mark.parametrize("size, kernel", [(224, 23), (64, 7), (32, 3), (8, 3)])
def test_default_kernel_is_a_tenth(size: int, kernel: int) -> None:
    assert ViewRecipe().kernel_size(size) == kernel


@pytest.mark.parametrize(
    "wrong",
    [{"flip_prob": 1.5}, {"hue": 0.6}, {"contrast": -1.0}, {"blur_sigma": (0.0, 1.0)}],
)
def test_bad_recipe(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        ViewRecipe(**wrong)


def test_operations_are_chosen_by_the_draws_alone() -> None:
    """A recipe's draws under its `operations`, whose probabilities are all 1: bit for bit."""
    images = torch.rand(8, 3, 24, 24)
    for recipe in (replace(FULL, blur_prob=0.0, solarize_prob=0.3), ViewRecipe.none()):
        params = sample_params(recipe, 8, torch.Generator().manual_seed(4))
        assert recipe.operations().gray_prob == 1.0
        got = apply_augment(images, params, recipe.operations())
        assert torch.equal(got, apply_augment(images, params, recipe))


def test_draws_of_batches_as_one() -> None:
    draws = torch.Generator().manual_seed(0)
    parts = [sample_params(FULL, number, draws) for number in (2, 3)]
    images = torch.rand(5, 3, 24, 24)
    together = apply_augment(images, AugmentParams.cat(parts), FULL)
    alone = [apply_augment(x, part, FULL) for x, part in zip(images.split([2, 3]), parts)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


@pytest.mark.parametrize("recipe", [FULL, replace(FULL, contrast=0.0), replace(FULL, hue=0.0)])
@pytest.mark.parametrize("jitter_prob", [0.0, 0.7, 1.0])
def test_arranged_jitter_is_that_of_each_operations_images(
    recipe: ViewRecipe, jitter_prob: float
) -> None:
    """Bit for bit what taking out the images of each operation at each position gives."""
    generator = torch.Generator().manual_seed(6)
    recipe = replace(recipe, jitter_prob=jitter_prob, gray_prob=0.0, blur_prob=0.0, flip_prob=0.0)
    images = torch.rand(40, 3, 16, 16, generator=generator)
    params = sample_params(replace(recipe, solarize_prob=0.0), 40, generator)
    expected = images.clone()
    for place in range(4):
        for number, (name, adjust) in enumerate(color.JITTER.items()):
            rows = (params.jitter & (params.order[:, place] == number)).nonzero().squeeze(1)
            if len(rows) and getattr(recipe, name) != 0:
                expected[rows] = adjust(expected[rows], getattr(params, name)[rows], None)
    assert torch.equal(apply_augment(images, params, recipe), expected)
    assert torch.equal(expected, images) == (jitter_prob == 0)
