"""Views: the fixed order of operations, independence of views, the same-view option."""

from __future__ import annotations

import pytest
import torch

from pretrain.common.errors import InputError
from pretrain.data import augment, masking
from pretrain.data.augment import ViewRecipe
from pretrain.data.highpass import HighPass, highpass
from pretrain.data.masking import MaskRecipe
from pretrain.data.preprocess import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data.views import ViewMaker

MASK = MaskRecipe(grid_size=8, ratio=0.4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def crops() -> list[torch.Tensor]:
    return list(torch.randint(0, 256, (2, 6, 3, 24, 24), generator=generator(9)).byte())


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_order_of_operations(crops: list[torch.Tensor]) -> None:
    """Step by step from the same draws: augment in [0, 1], normalise, filter, mask; no more."""
    recipe = ViewRecipe()
    maker = ViewMaker([recipe] * 2, highpasses=[HighPass(5, 2.0), None], masks=[MASK, None])
    views = maker(crops, generator())
    draws = generator()
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    for view in (0, 1):
        pixels = crops[view].float() / 255
        pixels = augment.apply_augment(pixels, augment.sample_params(recipe, 6, draws), recipe)
        assert pixels.min() >= 0 and pixels.max() <= 1
        expected = (pixels - mean) / std
        if view == 0:
            expected = highpass(expected, 5, 2.0)
            params = masking.sample_params(MASK, (6, 3, 24, 24), draws)
            expected = torch.where(params.mask, params.fill, expected)
            assert torch.equal(views[0][params.mask], params.fill[params.mask])
        torch.testing.assert_close(views[view], expected, atol=1e-5, rtol=0)
        assert views[view].dtype == torch.float32 and views[view].shape == crops[view].shape


def test_masked_is_exactly_zero(crops: list[torch.Tensor]) -> None:
    mask = MaskRecipe(grid_size=8, ratio=0.5, noise="none", focal_prob=0.0)
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[HighPass(5, 2.0)] * 2, masks=[mask] * 2)
    zeros = (torch.stack(maker(crops, generator())) == 0).float().mean().item()
    assert zeros == pytest.approx(0.5, abs=0.06)


def test_deterministic_by_generator(crops: list[torch.Tensor]) -> None:
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[HighPass()] * 2, masks=[MASK] * 2)
    torch.manual_seed(0)
    one = maker(crops, generator(1))
    torch.manual_seed(1)
    assert same(one, maker(crops, generator(1)))
    assert not same(one, maker(crops, generator(2)))


def test_memory_layout_does_not_matter(crops: list[torch.Tensor]) -> None:
    """The loader's crops are stored channels last in memory."""
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[HighPass()] * 2, masks=[MASK] * 2)
    last = [crop.contiguous(memory_format=torch.channels_last) for crop in crops]
    assert same(maker(crops, generator()), maker(last, generator()))


def test_views_of_two_sizes(crops: list[torch.Tensor]) -> None:
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[HighPass(5, 2.0)] * 2, masks=[MASK] * 2)
    small = crops[1][:, :, :16, :16]
    views = maker([crops[0], small], generator())
    assert [view.shape[-1] for view in views] == [24, 16]
    assert torch.equal(views[0], maker(crops, generator())[0])


@pytest.mark.parametrize("fill", ["noise", "mean", "blur", "other"])
@pytest.mark.parametrize("large, piece", [(1, 1), (2**30, 2 * 3 * 24 * 24)])
def test_pieces_of_a_batch_are_the_batch(
    crops: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch, fill: str, large: int, piece: int
) -> None:
    """Images one by one, or two at a time, give the views and draws of the full batch."""
    recipe = ViewRecipe(solarize_prob=0.4)
    mask = MaskRecipe(grid_size=8, ratio=0.4, fill=fill)
    maker = ViewMaker(
        [recipe] * 5,
        highpasses=[HighPass(5, 2.0), None, None, HighPass(5, 2.0), None],
        masks=[mask, None, mask, mask, mask],
        same_view=[None, None, 0, None, 0],
    )
    # 5 images: a last piece of one
    given = [crops[0][:5], crops[1][:5], crops[0][:5], crops[1][:5], crops[0][:5]]
    before = [crop.clone() for crop in given]
    monkeypatch.setattr(augment, "LARGE", 2**30)
    monkeypatch.setattr(augment, "CPU_PIECE", 2**30)
    draws = generator(4)
    whole = maker(given, draws)
    monkeypatch.setattr(augment, "LARGE", large)
    monkeypatch.setattr(augment, "CPU_PIECE", piece)
    again = generator(4)
    for ours, twin in zip(maker(given, again), whole, strict=True):
        torch.testing.assert_close(ours, twin, atol=1e-6, rtol=0)
    assert torch.equal(again.get_state(), draws.get_state())
    assert same(given, before)


def test_same_view(crops: list[torch.Tensor]) -> None:
    """View 1 reuses view 0's augmented pixels, under a different mask."""
    black = MaskRecipe(grid_size=8, ratio=0.4, noise="none", focal_prob=0.0)
    maker = ViewMaker(
        [ViewRecipe()] * 2, highpasses=[None] * 2, masks=[black] * 2, same_view=[None, 0]
    )
    one, two = maker(crops, generator())
    visible = (one != 0) & (two != 0)
    assert torch.equal(one[visible], two[visible])
    assert not torch.equal(one == 0, two == 0), "masked independently"


def test_rung_0_sees_one_shared_crop(crops: list[torch.Tensor]) -> None:
    """No augmentation, one crop for both views: they differ under the masks only."""
    shared = crops[:1] * 2
    mask = MaskRecipe(grid_size=8, noise="none", focal_prob=0.0, channel_prob=0.0)
    maker = ViewMaker([ViewRecipe.none()] * 2, highpasses=[None] * 2, masks=[mask] * 2)
    one, two = maker(shared, generator())
    visible = (one != 0) & (two != 0)
    assert torch.equal(one[visible], two[visible]) and not torch.equal(one, two)


def test_checks() -> None:
    good = {"highpasses": [None], "masks": [MASK]}
    with pytest.raises(InputError, match="grid_size 8 px is larger"):
        ViewMaker([ViewRecipe()], **good).check([7])
    with pytest.raises(InputError, match="blur kernel of 11"):
        ViewMaker([ViewRecipe()], highpasses=[HighPass()], masks=[None]).check([5])
    with pytest.raises(InputError, match="blur kernel of 9"):
        ViewMaker([ViewRecipe(blur_kernel=9)], highpasses=[None], masks=[None]).check([4])
    ViewMaker([ViewRecipe()], **good).check([8])
    with pytest.raises(InputError, match="got 2, 1, 1 and 2"):
        ViewMaker([ViewRecipe()] * 2, **good)
    with pytest.raises(InputError, match="earlier view"):
        ViewMaker([ViewRecipe()], same_view=[0], **good)
    with pytest.raises(InputError, match="got 2 crops per image for 1 views"):
        ViewMaker([ViewRecipe()], **good)([torch.zeros(1, 3, 8, 8).byte()] * 2, generator())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu(crops: list[torch.Tensor]) -> None:
    """With a CPU generator all draws but the noise are the same on both devices."""
    mask = MaskRecipe(grid_size=8, noise="none")
    maker = ViewMaker([ViewRecipe()] * 2, highpasses=[HighPass(5, 2.0)] * 2, masks=[mask] * 2)
    on_gpu = maker([crop.cuda() for crop in crops], generator())
    for ours, theirs in zip(on_gpu, maker(crops, generator())):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=0)
    noisy = ViewMaker([ViewRecipe()] * 2, highpasses=[None] * 2, masks=[MASK] * 2)
    draws = torch.Generator("cuda").manual_seed(0)
    again = torch.Generator("cuda").manual_seed(0)
    moved = [crop.cuda() for crop in crops]
    assert same(noisy(moved, draws), noisy(moved, again))


def test_masks_of_are_those_of_the_views(crops: list[torch.Tensor]) -> None:
    """From the same generator: masked values are the fill bit for bit, and nothing else is."""
    mask = MaskRecipe(grid_size=8, ratio=0.4, channel_prob=0.5, focal_prob=0.3, random_phase=True)
    maker = ViewMaker(
        [ViewRecipe()] * 4,
        highpasses=[HighPass(5, 2.0), None, HighPass(5, 2.0), None],
        masks=[mask, None, mask, mask],
        same_view=[None, None, 0, None],
    )
    small = crops[0][:, :, :16, :16]
    given = [*crops, crops[0], small]
    views = maker(given, generator(3))
    masks = maker.masks_of(given, generator(3))
    assert [params is None for params in masks] == [False, True, False, False]
    for view, params in zip(views, masks):
        if params is not None:
            assert params.mask.shape == view.shape and params.mask.any() and not params.mask.all()
            assert torch.equal(view == params.fill, params.mask)
    assert not torch.equal(masks[0].mask, masks[2].mask), "one view, two masks"
