"""Summaries against numpy and scipy; the interval contains the truth as often as it claims."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from transfer.results.replicates import draw_weights
from transfer.results.statistics import IMAGES as IMAGES_ONLY
from transfer.results.statistics import Parts, estimate, summarize, variance_parts


def test_against_numpy_and_scipy() -> None:
    values = np.random.default_rng(0).normal(50, 2, 7).tolist()
    summary = summarize(values)
    assert summary.mean == pytest.approx(np.mean(values))
    assert summary.std == pytest.approx(np.std(values, ddof=1))
    low, high = stats.t.interval(0.95, 6, loc=np.mean(values), scale=stats.sem(values))
    assert summary.mean - summary.half_width == pytest.approx(low)
    assert summary.mean + summary.half_width == pytest.approx(high)
    assert summary.n == 7


def test_one_value_has_no_spread() -> None:
    summary = summarize([12.5])
    assert (summary.mean, summary.std, summary.n, summary.half_width) == (12.5, None, 1, None)


def test_coverage() -> None:
    draws = np.random.default_rng(1).normal(50, 3, (2000, 4))
    covered = [abs(s.mean - 50) <= s.half_width for s in map(summarize, draws.tolist())]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


IMAGES, DRAWS = 150, 200
WEIGHTS = draw_weights(IMAGES, DRAWS) / IMAGES


def simulate(
    rng: np.random.Generator, n: int, trial: float, image: float, both: float
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of n trials on images, and their replicates: the truth is 50.

    trial, image, both: standard deviations of the trials' effect, the images', and what is new for
    each trial on each image.
    """
    scores = 50 + trial * rng.normal(size=(n, 1)) + image * rng.normal(size=(1, IMAGES))
    scores = scores + both * rng.normal(size=(n, IMAGES))
    return scores.mean(axis=1), scores @ WEIGHTS


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("trial, image, both", [(1, 12, 0), (1, 12, 12), (0.05, 12, 12), (1, 1, 1)])
def test_coverage_of_trials_and_images(n: int, trial: float, image: float, both: float) -> None:
    """95 % intervals hold the truth in 95 % or a little more of 1,000 repetitions (their standard
    error is 0.7 %)."""
    rng = np.random.default_rng(n)
    inside = 0
    for _ in range(1000):
        found = summarize(*simulate(rng, n, trial, image, both))
        inside += found.low <= 50 <= found.high
    assert 0.935 <= inside / 1000 <= 0.995


def test_one_trial_covers_images_alone() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        found = summarize(*simulate(rng, 1, 0.0, 12, 0))
        inside += found.low <= 50 <= found.high
    assert 0.925 <= inside / 1000 <= 0.975
    assert found.covers == IMAGES_ONLY and found.std is None and found.half_width is None


def test_few_images_are_known_to_be_few() -> None:
    """Ten images: 9 degrees of freedom, and the draws' variance times 10 / 9, as scipy has it."""
    rng = np.random.default_rng(0)
    weights, inside = draw_weights(10, 2000) / 10, 0
    for _ in range(1000):
        scores = rng.normal(50, 12, 10)
        found = summarize([scores.mean()], (scores @ weights)[None], 10)
        inside += found.low <= 50 <= found.high
    assert 0.93 <= inside / 1000 <= 0.97  # 90 % with the draws' own variance and number
    expected = stats.t.interval(0.95, 9, scores.mean(), stats.sem(scores))
    assert (found.low, found.high) == pytest.approx(expected, rel=0.02)


def test_the_closed_form_is_the_pigeonhole_bootstraps_variance() -> None:
    """Against a bootstrap that draws trials and images at random, 20,000 times."""
    rng = np.random.default_rng(4)
    n = 6
    values, replicates = simulate(rng, n, 1.0, 12.0, 6.0)
    chosen = rng.integers(n, size=(20000, n))
    column = rng.integers(DRAWS, size=(20000, 1))
    drawn = replicates[chosen, column].mean(axis=1).var()
    # Two biases are taken out: (n - 1) / n of the trials' part, and what trials differ by image
    once = np.var(replicates.mean(axis=0), ddof=1)
    shared = (np.var(replicates, axis=1, ddof=1).mean() - once) / (n - 1)
    trials = np.var(values, ddof=1) / n
    se = estimate(values, replicates).se
    assert se**2 == pytest.approx(trials + once - shared)
    # The draws also carry the interaction of the resampled trials, once more than the images' part
    assert drawn == pytest.approx((n - 1) / n * trials + once + (n - 1) / n * shared, rel=0.04)


def test_intervals_stay_in_percent() -> None:
    found = summarize([99.0, 97.0, 99.9])
    assert found.high == 100.0 and found.low > 50 and found.covers == "trials"
    assert found.low == pytest.approx(found.mean - found.half_width)


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("wanted, known", [(0.9, False), (1.1, True)])
def test_trials_agree_up_to_rounding(count: int, wanted: float, known: bool) -> None:
    """A standard deviation of 1e-9 percent points or less is 0, which is not a spread."""
    values = np.arange(count) / np.std(np.arange(count), ddof=1) * wanted * 1e-9
    found = summarize(values.tolist(), percent=False)
    assert found.std == pytest.approx(wanted * 1e-9 if known else 0.0)
    assert (found.low is not None) == known


@pytest.mark.parametrize("wanted, known", [(0.9, False), (1.1, True)])
def test_draws_agree_up_to_rounding(wanted: float, known: bool) -> None:
    """Draws that all give one number, as those of 100 %, say nothing about the images."""
    drawn = np.arange(200) / np.std(np.arange(200), ddof=1) * wanted * 1e-9
    assert (estimate([0.0], drawn[None]).se is not None) == known
    both = estimate([40.0, 41.0], np.tile(drawn, (2, 1)))
    assert both.covers == ("trials and images" if known else "trials")


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_interval_of_any_confidence_is_scipys(confidence: float) -> None:
    values = np.random.default_rng(2).normal(50, 2, 5)
    expected = stats.t.interval(confidence, 4, values.mean(), stats.sem(values))
    found = estimate(values.tolist())
    assert found.interval(confidence) == pytest.approx(expected)
    assert found.reach(confidence) == pytest.approx((expected[1] - expected[0]) / 2)
    assert found.se == pytest.approx(stats.sem(values))


def test_a_deterministic_result_has_no_variance_by_trials() -> None:
    drawn = np.random.default_rng(3).normal(50, 2, (1, 200))
    exact = variance_parts([50.0], drawn, 150, exact=True)
    assert exact == Parts(0.0, pytest.approx(drawn.var(ddof=1) * 150 / 149), 1, 150)
    assert variance_parts([50.0], drawn, 150).trials is None
    assert variance_parts([50.0], drawn).known == 200
    assert variance_parts([50.0, 52.0], None, exact=True) == Parts(pytest.approx(1.0), None, 2, 0)


def test_agreement_of_trials_is_no_certainty() -> None:
    assert summarize([40.0, 40.0]).low is None
    assert summarize([100.0], np.full((1, 200), 100.0)).low is None
    drawn = np.tile(np.random.default_rng(0).normal(40, 2, 200), (2, 1))
    found = summarize([40.0, 40.0], drawn)
    assert found.covers == "trials and images"
    assert found.high - found.mean == pytest.approx(1.972 * drawn[0].std(ddof=1), rel=1e-3)


def test_trials_that_differ_on_every_image_still_cover_both() -> None:
    """The images' part is 0 once what trials differ by is taken out: known, and small."""
    drawn = np.random.default_rng(0).normal(50, 2, 200)
    found = summarize([50.0, 52.0, 51.0, 49.0], np.stack([drawn, -0.9 * drawn] * 2) + 100)
    assert found.covers == "trials and images"


def test_only_percentages_end_at_0_and_100() -> None:
    assert summarize([1.0, 99.0]).low == 0.0 and summarize([1.0, 99.0]).high == 100.0
    below = summarize([-0.5, -0.4, -0.6], percent=False)
    assert below.low < -0.6 and below.high < 0.0
