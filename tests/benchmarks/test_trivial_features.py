"""Trivial features, retrieval and border responses: against slow loops, and in known cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import trivial_features as trivial
from benchmarks.trivial_features import BorderResponse, border_response, retrieval_rate
from pretrain.common.errors import InputError
from pretrain.data.highpass import highpass
from pretrain.data.masking import MaskRecipe, apply_mask, sample_params

GRID = MaskRecipe(grid_size=8, ratio=0.3, focal_prob=0.0, channel_prob=0.0, noise="none")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int, size: int, seed: int = 0) -> Tensor:
    """Smooth, coloured images with texture, `(n, 3, size, size)`, near normalised input's range."""
    draws = generator(seed)
    coarse = torch.randn(n, 3, 5, 5, generator=draws)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    colour = torch.randn(n, 3, 1, 1, generator=draws)
    return smooth + colour + 0.1 * torch.randn(n, 3, size, size, generator=draws)


def masked(images: Tensor, recipe: MaskRecipe = GRID, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Views and their masks."""
    shape = (images.shape[0], images.shape[1], images.shape[2], images.shape[3])
    params = sample_params(recipe, shape, generator(seed))
    return apply_mask(images, params), params.mask


# Features


def test_mean_colour() -> None:
    views = photos(3, 9)
    expected = np.array([[image[c].mean() for c in range(3)] for image in views.numpy()])
    np.testing.assert_allclose(trivial.mean_colour(views), expected, rtol=1e-5, atol=1e-6)


def test_colour_histogram_counts_as_a_loop_does() -> None:
    views = torch.cat([photos(3, 9) * 2, torch.zeros(1, 3, 9, 9)])
    views[3, 0], views[3, 1] = -9.0, 9.0
    bins = 6
    expected = np.zeros((4, 3, bins))
    for n, c, y, x in np.ndindex(*views.shape):
        value = float(views[n, c, y, x])
        root = math.copysign(math.sqrt(abs(value) / 3.0), value)
        place = min(max(math.floor((root + 1) / 2 * bins), 0), bins - 1)
        expected[n, c, place] += 1 / 81
    found = trivial.colour_histogram(views, bins)
    np.testing.assert_allclose(found, expected.reshape(4, -1), atol=1e-6)
    np.testing.assert_allclose(found.view(4, 3, bins).sum(2), 1, atol=1e-6)


def test_edge_histogram_counts_as_a_loop_does() -> None:
    views = photos(3, 10)
    views[2] *= 0.02  # weak edges, most of them in no class
    expected = np.zeros((3, 4, 8))
    for n, y, x in np.ndindex(3, 9, 9):
        grey = views[n].mean(0)
        dx, dy = float(grey[y, x + 1] - grey[y, x]), float(grey[y + 1, x] - grey[y, x])
        strength = sum(math.hypot(dx, dy) >= least for least in trivial.MAGNITUDES)
        degrees = math.degrees(math.atan2(dy, dx)) % 180
        way = int((degrees + 11.25) // 22.5) % 8
        if strength:
            expected[n, strength - 1, way] += 1 / 81
    found = trivial.edge_histogram(views)
    np.testing.assert_allclose(found, expected.reshape(3, -1), atol=1e-6)
    assert found[2].sum() < 0.5 < found[0].sum() <= 1


@pytest.mark.parametrize(("turned", "way"), [(False, 0), (True, 4)])
def test_an_upright_edge_is_in_the_first_class(turned: bool, way: int) -> None:
    view = torch.zeros(1, 3, 8, 8)
    view[..., 4:] = -1.0
    found = trivial.edge_histogram(view.transpose(2, 3) if turned else view).view(4, 8)
    assert found[3, way].item() == pytest.approx(1 / 7) and found.sum() == found[3, way]


def test_mask_shape_is_the_masked_share_of_each_part() -> None:
    masks = torch.rand(2, 3, 12, 12, generator=generator()) < 0.4
    found = trivial.mask_shape(masks, cells=4).view(2, 3, 4, 4)
    for n, c, y, x in np.ndindex(2, 3, 4, 4):
        part = masks[n, c, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3]
        assert found[n, c, y, x].item() == pytest.approx(float(part.float().mean()))


def test_guessed_mask_is_as_a_loop_says() -> None:
    views, _ = masked(photos(2, 16))
    found = trivial.guessed_mask(views, cells=2).view(2, 3, 2, 2)
    for n, c, row, column in np.ndindex(2, 3, 2, 2):
        flat, first, second = [], [], []
        for y, x in np.ndindex(8, 8):
            # The outermost pixels count as those beside them.
            y, x = (min(max(8 * p + k, 1), 14) for p, k in ((row, y), (column, x)))
            v = views[n, c].double()
            first.append(abs(v[y, x] - v[y, x - 1]) + abs(v[y, x] - v[y - 1, x]))
            flat.append(float(first[-1] < 1e-3))
            across = v[y, x - 1] + v[y, x + 1] - 2 * v[y, x]
            second.append(abs(across) + abs(v[y - 1, x] + v[y + 1, x] - 2 * v[y, x]))
        ratio = float(sum(second) / sum(first))
        white = 1 - abs(ratio - math.sqrt(3)) / (math.sqrt(3) - 1)
        expected = max(sum(flat) / 64, white)
        assert found[n, c, row, column].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("noise", ["none", "iid", "image"])
def test_the_mask_can_be_read_off_smooth_views(noise: str) -> None:
    recipe = MaskRecipe(grid_size=16, ratio=0.3, focal_prob=0.0, channel_prob=1.0, noise=noise)
    draws = generator(1)
    smooth = torch.randn(24, 3, 9, 9, generator=draws)
    smooth = torch.nn.functional.interpolate(smooth, (64, 64), mode="bicubic")
    views, masks = masked(smooth, recipe)
    guess, shape = trivial.guessed_mask(views, 4), trivial.mask_shape(masks, 4)
    assert guess[shape == 1].min() > 0.6 > guess[shape == 0].max()
    assert retrieval_rate(guess, shape) > 0.95


# Retrieval


def slow_rate(a: np.ndarray, b: np.ndarray) -> float:
    """Loops over both directions; ties, counted among rounded distances, share."""
    both = np.concatenate([a, b])
    spread = both.std(axis=0)
    scale = np.where(spread > 0, spread, 1)
    one, two = a / scale, b / scale
    shares = []
    for queries, keys in ((one, two), (two, one)):
        for i, query in enumerate(queries):
            distances = [round(float(np.linalg.norm(query - key)), 9) for key in keys]
            nearest = [k for k, distance in enumerate(distances) if distance == min(distances)]
            shares.append(1 / len(nearest) if i in nearest else 0.0)
    return float(np.mean(shares))


@pytest.mark.parametrize("ties", [False, True])
def test_retrieval_is_as_a_loop_says(ties: bool) -> None:
    a = torch.randn(20, 4, generator=generator())
    b = a + 0.7 * torch.randn(20, 4, generator=generator(1))
    a, b = a * torch.tensor([1.0, 10.0, 0.1, 1.0]), b * torch.tensor([1.0, 10.0, 0.1, 1.0])
    a[:, 3] = b[:, 3] = 7.0
    if ties:
        a, b = a.sign(), b.sign()
    expected = slow_rate(a.double().numpy(), b.double().numpy())
    assert retrieval_rate(a, b) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < expected < 0.9


def test_identical_views_are_always_found() -> None:
    views = photos(12, 16)
    for feature in (trivial.mean_colour, trivial.colour_histogram, trivial.edge_histogram):
        assert retrieval_rate(feature(views), feature(views.clone())) == 1.0


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_a_constant_feature_is_at_chance(value: float) -> None:
    constant = torch.full((7, 3), value)
    assert retrieval_rate(constant, constant) == pytest.approx(1 / 7, abs=1e-12)


def test_a_feature_of_few_values_is_at_chance_where_it_is_independent() -> None:
    """Ties are not broken in a pair's favour: 200 batches, mean within 4 standard errors."""
    rates = []
    for seed in range(200):
        a, b = (torch.rand(2, 10, 2, generator=generator(seed)) < 0.3).float()
        rates.append(retrieval_rate(a, b))
    error = np.std(rates) / math.sqrt(len(rates))
    assert abs(np.mean(rates) - 0.1) < 4 * error < 0.02


def test_independent_noise_is_at_chance() -> None:
    rates = [retrieval_rate(*torch.randn(2, 32, 5, generator=generator(s))) for s in range(100)]
    error = np.std(rates) / math.sqrt(len(rates))
    assert abs(np.mean(rates) - 1 / 32) < 4 * error < 0.02


def test_independent_masks_are_at_chance() -> None:
    """What masks are by construction, and would not be if two views shared draws."""
    rates = []
    for seed in range(40):
        shapes = [
            trivial.mask_shape(masked(torch.zeros(24, 3, 32, 32), seed=2 * seed + k)[1], 4)
            for k in (0, 1)
        ]
        rates.append(retrieval_rate(shapes[0], shapes[1]))
        assert retrieval_rate(shapes[0], shapes[0]) > 0.9  # some masks come twice
    error = np.std(rates) / math.sqrt(len(rates))
    assert abs(np.mean(rates) - 1 / 24) < 4 * error < 0.04


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.zeros(4, 2), torch.zeros(4, 3)),
        (torch.zeros(1, 2), torch.zeros(1, 2)),
        (torch.zeros(4), torch.zeros(4)),
        (torch.full((4, 2), math.nan), torch.zeros(4, 2)),
    ],
)
def test_bad_features(a: Tensor, b: Tensor) -> None:
    with pytest.raises(InputError):
        retrieval_rate(a, b)


# Borders


def slow_response(views: np.ndarray, masks: np.ndarray, length: int) -> BorderResponse:
    """Pixel by pixel, as the docstrings say."""
    n_images, channels, size, _ = views.shape

    def pairs(n: int, c: int, shape: np.ndarray):  # (axis, line, place along it, step, sign, free)
        for axis in (0, 1):
            v, own, other = (x[n, c] if axis == 0 else x[n, c].T for x in (views, masks, shape))
            for line, place in np.ndindex(size - 1, size):
                step = v[line + 1, place] - v[line, place]
                sign = int(other[line + 1, place]) - int(other[line, place])
                free = not own[line + 1, place] and not own[line, place]
                yield axis, line, place, step, sign, free

    used = []
    for n, c in np.ndindex(n_images, channels):
        found = list(pairs(n, c, masks))
        if any(p[4] for p in found) and any(p[5] for p in found):
            used.append((n, c, found))

    def contrast(length: int) -> float:
        border, elsewhere = [], []
        for _, _, found in used:
            by_place = {p[:3]: p for p in found}
            ends, ends_free = [], []
            for axis, line, place in by_place:
                window = [by_place.get((axis, line, place + k)) for k in range(length)]
                if None in window:
                    continue
                mean = abs(np.mean([p[3] for p in window]))
                if window[0][4] and all(p[4] == window[0][4] for p in window):
                    ends.append(mean)
                if all(p[5] for p in window):
                    ends_free.append(mean)
            if ends and ends_free:
                border += ends
                elsewhere += ends_free
        return np.mean(border) / np.mean(elsewhere)

    spread = math.sqrt(np.mean([p[3] ** 2 for _, _, found in used for p in found if p[5]]))
    own, borrowed = [], []
    for n, c, found in used:
        own.append(np.mean([p[3] * p[4] for p in found if p[4]]))
        others = [p for p in pairs(n, c, np.roll(masks, -1, axis=0)) if p[4] and p[5]]
        if others:
            borrowed.append(np.mean([p[3] * p[4] for p in others]))
    signed, chance = (math.sqrt(np.mean(np.square(values))) for values in (own, borrowed))
    return BorderResponse(contrast(1), contrast(length), signed / spread, chance / spread)


@pytest.mark.parametrize("channel_prob", [0.0, 1.0])
@pytest.mark.parametrize("noise", ["none", "iid"])
def test_border_response_is_as_a_loop_says(channel_prob: float, noise: str) -> None:
    recipe = MaskRecipe(
        grid_size=5, ratio=0.3, channel_prob=channel_prob, noise=noise, apply_prob=0.8
    )
    views, masks = masked(photos(12, 16), recipe)
    views, masks = views[:, :2], masks[:, :2]
    assert not masks.flatten(2).any(2).all(), "some images have no mask"
    expected = slow_response(views.double().numpy(), masks.numpy(), 4)
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(border_response(views, masks, 4), expected, rtol=1e-4)


def test_a_black_mask_on_bright_images_is_an_edge() -> None:
    images = photos(16, 64) * 0.3 + 1.5
    views, masks = masked(images)
    found = border_response(views, masks)
    assert found.absolute > 5 and found.kernel > 10
    assert found.signed > 5 and found.signed_chance < 0.5
    dark = border_response(-views, masks)
    assert dark == pytest.approx(found), "half of the images bright, half dark: still an edge"
    mixed = torch.cat([views[:8], -views[8:]])
    assert border_response(mixed, masks).signed == pytest.approx(found.signed)


def test_the_filter_takes_the_signed_response_to_chance() -> None:
    images = photos(16, 64) * 0.3 + 1.5
    views, masks = masked(highpass(images, 11, 5.0))
    found = border_response(views, masks)
    assert found.signed < 0.2 and found.signed < 1.5 * found.signed_chance
    assert found.absolute < 1.5


def test_a_mask_that_changes_nothing_is_at_chance() -> None:
    images = photos(32, 64)
    found = border_response(images, masked(images)[1])
    assert found.absolute == pytest.approx(1, abs=0.1)
    assert found.kernel == pytest.approx(1, abs=0.2)
    assert found.signed == pytest.approx(found.signed_chance, rel=0.3)


@pytest.mark.parametrize("everything", [False, True])
def test_no_border_no_response(everything: bool) -> None:
    views = photos(2, 16)
    assert border_response(views, torch.full(views.shape, everything)) is None


def test_border_response_wants_one_shape() -> None:
    with pytest.raises(InputError, match="one shape"):
        border_response(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool))
