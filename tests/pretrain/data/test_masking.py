"""Masks: shares and ratios of the draws, exact values in and outside the masks, determinism."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from pretrain.common.errors import InputError
from pretrain.data.masking import (
    MaskDraws,
    MaskParams,
    MaskRecipe,
    apply_mask,
    draw_masks,
    make_masks,
    sample_params,
)

GRID = MaskRecipe(grid_size=8, focal_prob=0.0, channel_prob=0.0)


def draw(recipe: MaskRecipe, n: int = 500, size: int = 32, seed: int = 0) -> MaskParams:
    return sample_params(recipe, (n, 3, size, size), torch.Generator().manual_seed(seed))


def replaced(recipe: MaskRecipe, **changes: object) -> MaskRecipe:
    return MaskRecipe(**{**vars(recipe), **changes})


@pytest.mark.parametrize("ratio", [0.0, 0.15, 0.30, 0.5, 1.0])
@pytest.mark.parametrize("random_phase", [False, True])
@pytest.mark.parametrize("exact_count", [False, True])
def test_masked_area(ratio: float, random_phase: bool, exact_count: bool) -> None:
    recipe = replaced(GRID, ratio=ratio, random_phase=random_phase, exact_count=exact_count)
    area = draw(recipe).mask.float().mean((1, 2, 3))
    assert area.mean().item() == pytest.approx(ratio, abs=0.02)
    if exact_count and not random_phase:
        cells = (area * 16).round().unique()
        assert cells.min() >= int(ratio * 16) and cells.max() <= -(-ratio * 16 // 1)
    if not exact_count and 0 < ratio < 1:
        assert area.std() > 0.08


def test_ratio_range() -> None:
    """The ratio is drawn per image, from the full range, for all its channels."""
    recipe = MaskRecipe(ratio=(0.05, 0.25), grid_size=2, focal_prob=0.0, channel_prob=1.0)
    area = draw(recipe).mask.float().mean((2, 3))
    assert area.min() >= 0.04 and area.max() <= 0.26
    assert area.mean().item() == pytest.approx(0.15, abs=0.01)
    assert (area.amax(1) - area.amin(1)).max() <= 2 / 256
    assert area.std() > 0.05


def test_grid_masks_are_whole_cells() -> None:
    mask = draw(GRID).mask
    cells = mask[:, :, ::8, ::8]
    assert torch.equal(mask, cells.repeat_interleave(8, 2).repeat_interleave(8, 3))


def test_cells_at_the_edge_are_cut() -> None:
    mask = draw(replaced(GRID, ratio=0.5), size=20).mask
    cells = mask[:, :, ::8, ::8]
    assert cells.shape[-1] == 3
    assert torch.equal(mask, cells.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :20, :20])


def test_random_phase_moves_the_grid() -> None:
    mask = draw(replaced(GRID, random_phase=True, ratio=0.5)).mask[:, 0]
    columns = (mask[:, :, 1:] != mask[:, :, :-1]).any(1)
    assert columns.any(0).all(), "an edge at every column in some image"
    for image in columns[:50]:  # within one image all edges are a multiple of a cell apart
        places = image.nonzero().squeeze(1)
        assert len((places % 8).unique()) <= 1
    everywhere = mask.float().mean(0)
    assert (everywhere - 0.5).abs().max() < 0.12, "no pixel is masked more often than another"


def test_focal_share_and_shape() -> None:
    recipe = MaskRecipe(ratio=0.0, grid_size=8, channel_prob=0.0, focal_size=(0.4, 0.9))
    params = draw(recipe, n=4000)
    assert params.focal.float().mean().item() == pytest.approx(0.2, abs=0.02)
    for mask, focal in zip(params.mask[:300, 0], params.focal[:300, 0]):
        assert mask.any() == focal
        rows, columns = (~mask).any(1), (~mask).any(0)
        assert torch.equal(~mask, rows[:, None] & columns[None]), "the kept region is a rectangle"
        if focal:
            assert rows.sum() == columns.sum() and 13 <= rows.sum() <= 29
            assert rows.nonzero().squeeze(1).diff().eq(1).all()


def test_focal_aspect_and_place() -> None:
    recipe = MaskRecipe(focal_prob=1.0, focal_size=0.5, focal_aspect=(0.5, 2.0), channel_prob=0.0)
    mask = draw(recipe, n=2000).mask[:, 0]
    kept = ~mask
    wide, tall = kept.any(1).sum(1).float(), kept.any(2).sum(1).float()
    aspect = wide / tall
    assert aspect.min() < 0.6 and aspect.max() > 1.7
    assert kept.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert kept[:, 0].any() and kept[:, -1].any() and kept[:, :, 0].any() and kept[:, :, -1].any()


@pytest.mark.parametrize(
    "size, aspect, rows, columns", [(1.0, 0.25, 32, 16), (1.0, 4.0, 16, 32), (0.0, 1.0, 1, 1)]
)
def test_a_kept_region_is_in_the_image(size: float, aspect: float, rows: int, columns: int) -> None:
    """A side that would be longer than the image's is the image's; the shortest has 1 px."""
    recipe = MaskRecipe(focal_prob=1.0, focal_size=size, focal_aspect=(aspect, aspect))
    generator = torch.Generator().manual_seed(0)
    box = draw_masks(recipe, (20, 3, 32, 32), generator, torch.device("cpu")).box
    assert box.min() >= 0 and box.max() <= 32
    assert (box[..., 1] - box[..., 0] == rows).all() and (
        box[..., 3] - box[..., 2] == columns
    ).all()
    assert torch.equal((~draw(recipe, n=5).mask).sum((2, 3)), torch.full((5, 3), rows * columns))


def channels_differ(mask: Tensor) -> Tensor:
    return (mask != mask[:, :1]).flatten(1).any(1)


def test_channel_independence() -> None:
    recipe = MaskRecipe(grid_size=4, ratio=0.3, focal_size=0.5)
    params = draw(recipe, n=4000)
    assert params.independent.float().mean().item() == pytest.approx(0.7, abs=0.025)
    differ = channels_differ(params.mask)
    assert not differ[~params.independent].any()
    assert differ[params.independent].float().mean() > 0.99
    assert torch.equal(params.focal, params.focal[:, :1].expand(-1, 3)), "one kind per image"


def test_channel_kinds() -> None:
    mixed = draw(MaskRecipe(grid_size=4, channel_kinds="mixed"), n=4000)
    several = (mixed.focal != mixed.focal[:, :1]).any(1)
    assert several[mixed.independent].float().mean().item() == pytest.approx(
        1 - 0.8**3 - 0.2**3, abs=0.03
    )
    assert not several[~mixed.independent].any()
    grid = draw(MaskRecipe(grid_size=4, channel_kinds="grid"), n=4000)
    assert not channels_differ(grid.mask)[grid.focal[:, 0]].any()
    assert grid.independent.float().mean().item() == pytest.approx(0.7 * 0.8, abs=0.03)


def test_apply_probability() -> None:
    params = draw(replaced(GRID, apply_prob=0.6), n=4000)
    assert params.applied.float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert not params.mask[~params.applied].any()
    assert params.mask[params.applied].flatten(1).any(1).all()


@pytest.mark.parametrize("noise", ["none", "iid", "image", "cell", "patch"])
def test_values(noise: str) -> None:
    """Masked is exactly 0 or noise that does not depend on the pixel; the rest is untouched."""
    recipe = MaskRecipe(grid_size=8, noise=noise, ratio=0.4)
    images = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    before = images.clone()
    params = draw(recipe, n=200)
    masked = apply_mask(images, params)
    assert torch.equal(images, before)
    assert torch.equal(masked[~params.mask], images[~params.mask])
    assert torch.equal(
        masked[params.mask], apply_mask(images + 7.0, params)[params.mask]
    ), "never pixel plus noise"
    values = masked[params.mask]
    if noise == "none":
        assert (values == 0).all()
        return
    if noise == "patch":  # 192 values in all: that of the focal masks is not such a sample
        assert values.std().item() == pytest.approx(0.18, rel=0.25)
        return
    assert values.std().item() == pytest.approx(0.18, rel=0.1)
    assert values.mean().abs() < 0.03
    if noise == "image":
        for i in range(20):
            for c in range(3):
                assert len(masked[i, c][params.mask[i, c]].unique()) <= 1


def cells_of(mask: Tensor, image: int, channel: int, cell: int) -> list[tuple[int, int, int, int]]:
    """The cells of a random-phase grid that a mask of whole cells shows: slow, by its edges."""
    plane = mask[image, channel]
    rows = [y for y in range(1, len(plane)) if (plane[y] != plane[y - 1]).any()]
    columns = [x for x in range(1, len(plane)) if (plane[:, x] != plane[:, x - 1]).any()]
    tops = range((rows[0] % cell if rows else 0) - cell, len(plane), cell)
    lefts = range((columns[0] % cell if columns else 0) - cell, len(plane), cell)
    return [
        (max(top, 0), min(top + cell, len(plane)), max(left, 0), min(left + cell, len(plane)))
        for top in tops
        for left in lefts
        if top + cell > 0 and left + cell > 0
    ]


@pytest.mark.parametrize("random_phase", [False, True])
def test_cell_noise_is_one_colour_a_cell_and_channel(random_phase: bool) -> None:
    recipe = replaced(GRID, noise="cell", ratio=0.5, random_phase=random_phase, channel_prob=0.5)
    params = draw(recipe, n=30)
    colours = []
    for image in range(30):
        for channel in range(3):
            for top, bottom, left, right in cells_of(params.mask, image, channel, 8):
                part = params.fill[image, channel, top:bottom, left:right]
                assert (part == part[0, 0]).all()
                colours.append(part[0, 0].item())
    assert len(set(colours)) == len(colours), "each cell and channel draws its own"
    assert torch.tensor(colours).std().item() == pytest.approx(0.18, rel=0.05)


@pytest.mark.parametrize("random_phase", [False, True])
def test_patch_noise_is_one_patch_in_all_cells_of_the_batch(random_phase: bool) -> None:
    recipe = replaced(GRID, noise="patch", ratio=0.5, random_phase=random_phase, channel_prob=0.5)
    params = draw(recipe, n=30)
    for channel in range(3):
        seen: list[Tensor] = []
        for image in range(30):
            for top, bottom, left, right in cells_of(params.mask, image, channel, 8):
                if (bottom - top, right - left) == (8, 8):
                    seen.append(params.fill[image, channel, top:bottom, left:right])
        assert len(seen) > 200 and all(torch.equal(patch, seen[0]) for patch in seen)
        assert seen[0].std().item() == pytest.approx(0.18, rel=0.4)
        assert len(seen[0].unique()) == 64
    other = draw(recipe, n=30, seed=1)
    assert not torch.isin(other.fill, params.fill).any(), "a patch of its own for each batch"


def test_patch_noise_of_a_focal_mask_is_drawn_value_by_value() -> None:
    params = draw(MaskRecipe(grid_size=8, noise="patch", focal_prob=0.5, channel_prob=0.0), n=40)
    for fill, focal in zip(params.fill, params.focal[:, 0]):
        values = len(fill.unique())  # of 3 * 32 * 32 some may agree by chance
        assert values > 3000 if focal else values == 3 * 8 * 8


@pytest.mark.parametrize("noise", ["iid", "image", "cell", "patch"])
def test_relative_noise_is_that_of_the_views_own_contrast(noise: str) -> None:
    recipe = MaskRecipe(grid_size=8, noise=noise, noise_std=0.5, ratio=0.4)
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    images *= torch.linspace(0, 3, 20)[:, None, None, None]  # the first is flat
    plain, params = draw(recipe, n=20), draw(replaced(recipe, noise_relative=True), n=20)
    assert torch.equal(plain.mask, params.mask) and torch.equal(plain.fill, params.fill)
    before = images.clone()
    masked = apply_mask(images, params)
    assert torch.equal(images, before)
    for image, result, mask, fill in zip(images, masked, params.mask, params.fill):
        values = image.double().flatten()
        mean = sum(values) / len(values)
        deviation = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5
        expected = torch.where(mask, (fill.double() * deviation).expand(3, 32, 32), image.double())
        torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=1e-5)


def test_the_kind_of_noise_leaves_the_masks() -> None:
    masks = [
        draw(replaced(GRID, noise=noise, random_phase=True, focal_prob=0.3)).mask
        for noise in ("none", "iid", "image", "cell", "patch")
    ]
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_determinism() -> None:
    recipe = MaskRecipe(grid_size=8, random_phase=True, ratio=(0.1, 0.5))
    one, same, other = draw(recipe), draw(recipe), draw(recipe, seed=1)
    assert torch.equal(one.mask, same.mask) and torch.equal(one.fill, same.fill)
    assert not torch.equal(one.mask, other.mask) and not torch.equal(one.fill, other.fill)


def test_grid_larger_than_the_image() -> None:
    with pytest.raises(InputError, match="grid_size 33 px is larger than the image of 32 px"):
        draw(replaced(GRID, grid_size=33), n=1)
    with pytest.raises(InputError, match="larger than the image"):
        MaskRecipe().check(31)
    MaskRecipe(focal_prob=1.0).check(31)


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"ratio": 1.2}, "ratio"),
        ({"ratio": (0.5, 0.1)}, "ratio"),
        ({"focal_size": 2.0}, "focal_size"),
        ({"focal_aspect": (2.0, 1.0)}, "focal_aspect"),
        ({"noise": "idd"}, "did you mean 'iid'"),
        ({"channel_kinds": "any"}, "channel masks"),
        ({"apply_prob": -0.1}, "apply_prob"),
        ({"grid_size": 0}, "grid_size"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"blur_sigma": 0.0}, "blur_sigma"),
    ],
)
def test_bad_recipe(wrong: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        MaskRecipe(**wrong)


def filled(fill: str, images: Tensor, **changes: object) -> tuple[Tensor, MaskParams]:
    recipe = MaskRecipe(grid_size=8, ratio=0.4, fill=fill, **changes)
    params = sample_params(recipe, tuple(images.shape), torch.Generator().manual_seed(0))
    return apply_mask(images, params), params


@pytest.fixture
def pictures() -> Tensor:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def test_mean_fill_is_the_channels_mean(pictures: Tensor) -> None:
    out, params = filled("mean", pictures)
    for image, result, mask in zip(pictures, out, params.mask):
        for plane, filled_plane, masked in zip(image, result, mask):
            expected = torch.where(masked, plane.mean(), plane)
            torch.testing.assert_close(filled_plane, expected)


def test_other_fill_is_the_next_image(pictures: Tensor) -> None:
    out, params = filled("other", pictures)
    for i in range(6):
        expected = torch.where(params.mask[i], pictures[(i + 1) % 6], pictures[i])
        assert torch.equal(out[i], expected)


@pytest.mark.parametrize("sigma, kernel", [(3.0, 9), (0.9, 3), (0.3, 3), (30.0, 63)])
def test_blur_fill_is_torchvisions_blur(sigma: float, kernel: int, pictures: Tensor) -> None:
    """Kernel and sigma as the third party's 31 and 10 px at 224 px, scaled with the image: a reach
    of 1.5 sigma, at least 1 px and at most what the border of 32 px can reflect."""
    out, params = filled("blur", pictures, blur_sigma=sigma / 32)
    assert params.blur_sigma == pytest.approx(sigma)
    blurred = gaussian_blur(pictures, [kernel, kernel], [sigma, sigma])
    expected = torch.where(params.mask, blurred, pictures)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fill", ["mean", "blur", "other"])
def test_rival_fills_are_drawn_as_mscns_masks(fill: str, pictures: Tensor) -> None:
    """Only what the masked pixels become differs: the masks are those of MSCN for the same seed."""
    out, params = filled(fill, pictures)
    _, plain = filled("noise", pictures, noise="none")
    assert torch.equal(params.mask, plain.mask)
    assert torch.equal(out[~params.mask], pictures[~params.mask])
    assert params.mask.any() and not torch.equal(out[params.mask], pictures[params.mask])


def test_unknown_fill_is_refused() -> None:
    with pytest.raises(InputError, match="unknown mask fill 'median'"):
        MaskRecipe(fill="median")


@pytest.mark.parametrize("size, number", [(16, 1), (16, 3), (12, 2), (9, 1), (9, 4), (2, 1)])
@pytest.mark.parametrize("noise", ["none", "iid", "image", "cell", "patch"])
def test_masks_of_parts_are_those_of_the_batch(size: int, number: int, noise: str) -> None:
    """Bit for bit, and the generator ends in the same state, also if the noise of a part does not
    fill the blocks in which torch draws it."""
    recipe = MaskRecipe(grid_size=2, noise=noise, random_phase=size == 9, focal_prob=0.4)
    shape, cpu = (7, 3, size, size), torch.device("cpu")
    one, two = (torch.Generator().manual_seed(size) for _ in range(2))
    whole = sample_params(recipe, shape, one)
    parts = [
        make_masks(recipe, (len(part.applied), *shape[1:]), part, cpu)
        for part in draw_masks(recipe, shape, two, cpu).split(number)
    ]
    assert torch.equal(one.get_state(), two.get_state())
    assert len(parts) == -(-7 // number)
    for name in ("mask", "applied", "independent", "focal", "fill"):
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            assert getattr(whole, name) is None and noise == "none"
        else:
            assert torch.equal(torch.cat(values), getattr(whole, name)), name


@pytest.mark.parametrize("changes", [{"noise": "none"}, {"noise": "iid"}, {"fill": "mean"}])
def test_masked_in_place(changes: dict, pictures: Tensor) -> None:
    recipe = MaskRecipe(grid_size=8, ratio=0.4, **changes)
    params = sample_params(recipe, (6, 3, 32, 32), torch.Generator().manual_seed(0))
    expected = apply_mask(pictures, params)
    elsewhere = torch.empty_like(pictures)
    assert apply_mask(pictures, params, elsewhere) is elsewhere
    assert torch.equal(elsewhere, expected) and not torch.equal(pictures, expected)
    assert apply_mask(pictures, params, pictures) is pictures
    assert torch.equal(pictures, expected)


@pytest.mark.parametrize("noise", ["iid", "image", "cell", "patch", "none"])
@pytest.mark.parametrize("random_phase", [False, True])
def test_masks_of_several_batches_are_those_of_each(noise: str, random_phase: bool) -> None:
    recipe = MaskRecipe(grid_size=8, ratio=0.4, noise=noise, random_phase=random_phase)
    cpu, images = torch.device("cpu"), torch.zeros(7, 3, 24, 32)
    parts = images.split([4, 3])

    def drawn(part: Tensor, seed: int) -> MaskDraws:
        return draw_masks(recipe, tuple(part.shape), torch.Generator().manual_seed(seed), cpu)

    alone = [
        apply_mask(part, make_masks(recipe, tuple(part.shape), drawn(part, seed), cpu))
        for seed, part in enumerate(parts)
    ]
    joined = MaskDraws.cat([drawn(part, seed) for seed, part in enumerate(parts)])
    params = make_masks(recipe, tuple(images.shape), joined, cpu)
    assert params.mask.any() and len(params.applied) == 7
    torch.testing.assert_close(apply_mask(images, params), torch.cat(alone), rtol=0, atol=0)


@pytest.mark.parametrize("random_phase", [False, True])
def test_draws_that_are_sent_to_a_device(random_phase: bool) -> None:
    """One copy carries all numbers. `cpu:0` is the same memory as `cpu`, but a different device."""
    recipe = MaskRecipe(grid_size=8, ratio=0.4, focal_prob=0.5, random_phase=random_phase)
    shape, device = (20, 3, 24, 32), torch.device("cpu")
    draws = draw_masks(recipe, shape, torch.Generator().manual_seed(0), device)
    sent = draws.to(torch.device("cpu:0"))
    assert sent is not draws and draws.to(device) is draws
    for name in ("box", "scores", "limit", "shift"):
        before, after = getattr(draws, name), getattr(sent, name)
        assert (before is None and after is None) or torch.equal(before, after), name
    assert (sent.shift is not None) == random_phase
    assert sent.shift is None or sent.shift.dtype == torch.int64
