"""Differences of two samples against scipy, by simulation, and Holm's method by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from transfer.results.all_pairs import best_of
from transfer.results.comparison import (
    LEAST_DRAWS,
    Sample,
    compare,
    detectable,
    holm,
    p_value,
    spread_of,
)
from transfer.results.replicates import draw_weights
from transfer.results.statistics import BOTH, IMAGES, TRIALS, Estimate, Source

COUNT, WEIGHTS = 150, draw_weights(150, 200) / 150
KEY = (0, "a" * 64)


def pair_of(
    rng: np.random.Generator, sizes: tuple[int, int], gap: float = 0.0
) -> tuple[Sample, Sample]:
    """Two checkpoints on the same images; the second is `gap` better in truth."""
    hard = 15 * rng.normal(size=COUNT)
    samples = []
    for number, n in enumerate(sizes):
        own = 4 * rng.normal(size=COUNT) + 3 * rng.normal(size=(n, COUNT))
        scores = 50 + number * gap + hard + own + rng.normal(size=n)[:, None]
        samples.append(Sample(scores.mean(1), scores @ WEIGHTS, KEY))
    return samples[0], samples[1]


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("sizes", [(3, 3), (2, 5)])
def test_coverage_of_a_difference(sizes: tuple[int, int], pool: bool) -> None:
    rng = np.random.default_rng(sizes[1])
    inside, false = 0, 0
    for _ in range(1000):
        pair = pair_of(rng, sizes)
        found = compare(*pair, spread_of(pair) if pool else None)
        low, high = found.estimate.interval()
        inside += low <= 0 <= high
        false += found.resolved
        assert found.resolved == (not low <= 0 <= high)
    assert 0.935 <= inside / 1000 <= 0.99 and false == 1000 - inside
    assert found.estimate.covers == BOTH


def test_shared_draws_cancel_hard_images() -> None:
    first, second = pair_of(np.random.default_rng(0), (4, 4))
    together = compare(first, second).estimate.se
    alone = math.hypot(*(s.replicates.mean(axis=0).std(ddof=1) for s in (first, second)))
    assert together < 0.7 * alone
    other = Sample(second.values, second.replicates, (0, "b" * 64))
    assert compare(first, other).estimate.covers == TRIALS  # other images: no draws in common


def test_few_draws_in_common_say_nothing_of_the_images() -> None:
    first, second = pair_of(np.random.default_rng(0), (3, 3))
    for count, covers in ((LEAST_DRAWS, BOTH), (LEAST_DRAWS - 1, TRIALS)):
        other = replace(second, replicates=second.replicates[:, :count])
        assert compare(first, other).estimate.covers == covers


@pytest.mark.parametrize("sizes", [(4, 4), (2, 5)])
def test_neither_side_nor_the_order_of_trials_matters(sizes: tuple[int, int]) -> None:
    first, second = pair_of(np.random.default_rng(6), sizes)
    order = np.random.default_rng(0).permutation(sizes[1])
    shuffled = replace(second, values=second.values[order], replicates=second.replicates[order])
    assert order.tolist() != sorted(order)
    for spread in (spread_of((first, second)), None):
        found, turned = compare(first, second, spread), compare(second, first, spread)
        assert turned.estimate.value == pytest.approx(-found.estimate.value)
        for other in (turned, compare(first, shuffled, spread)):
            assert other.estimate.se == pytest.approx(found.estimate.se)
            assert other.p == pytest.approx(found.p)


def test_trials_alone_are_scipys_t_tests() -> None:
    """Only two rows: Student's t with one spread, Welch's with a spread for each row."""
    rng = np.random.default_rng(1)
    first, second = Sample(rng.normal(50, 1, 3)), Sample(rng.normal(51, 1.5, 4))
    for spread in (spread_of((first, second)), None):
        found = compare(first, second, spread)
        expected = stats.ttest_ind(first.values, second.values, equal_var=spread is not None)
        assert found.p == pytest.approx(expected.pvalue)
        assert found.estimate.interval() == pytest.approx(tuple(expected.confidence_interval()))


def test_one_trial_has_the_spread_of_the_others() -> None:
    """It has an interval, wider by 1 / n, unless the rows spread differently."""
    rows = [Sample([50.0, 50.4, 50.2]), Sample([51.0, 51.3, 51.5]), Sample([52.0])]
    spread = spread_of(rows)
    assert spread is not None and spread.is_equal and spread.df == 4
    found = compare(rows[2], rows[0], spread)
    reach = stats.t.ppf(0.975, 4) * spread.std * math.sqrt(1 + 1 / 3)
    assert found.estimate.reach() == pytest.approx(reach) and found.estimate.covers == TRIALS
    apart = spread_of([*rows[:2], Sample([40.0, 60.0, 80.0])])
    assert apart is not None and not apart.is_equal
    assert compare(rows[2], rows[0], apart).estimate.interval() is None


def test_the_detectable_difference_has_its_power() -> None:
    for df, se in ((2.0, 0.4), (7.5, 1.0), (199.0, 2.0)):
        size = detectable(Estimate(0.0, (Source(se**2, df),), TRIALS))
        critical = stats.t.ppf(0.975, df)
        assert 1 - stats.nct.cdf(critical, df, size / se) == pytest.approx(0.8, abs=1e-6)
    rng = np.random.default_rng(2)
    size = detectable(Estimate(0.0, (Source(1 / 5, 4),), TRIALS))
    draws = rng.normal(size, 1.0, (4000, 5))
    power = (stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean()
    assert power == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("variances", [(0.4, 0.0), (0.0, 0.4), (0.3, 0.3), (0.01, 0.5)])
def test_p_is_where_the_interval_reaches_0(variances: tuple[float, float]) -> None:
    sources = tuple(Source(v, df) for v, df in zip(variances, (2, 199)) if v)
    for value in (0.0, -0.4, 2.5, 60.0, 1e6):
        found = Estimate(value, sources, BOTH)
        p = p_value(found)
        if 1e-9 < p < 1:
            assert found.reach(1 - p) == pytest.approx(abs(value), rel=1e-6)
        alone = [2 * stats.t.sf(abs(value) / found.se, s.df) for s in sources]
        assert min(alone) - 1e-12 <= p <= max(alone) + 1e-12
        assert (p < 0.05) == (abs(value) > found.reach())


def test_equal_checkpoints_of_three_trials_are_rarely_resolved() -> None:
    """Trials and images of like size: 5 % at most; one quantile of Satterthwaite's has 8 %."""
    rng = np.random.default_rng(6)
    false = 0
    for _ in range(1000):
        pair = pair_of(rng, (3, 3))
        false += compare(*pair, spread_of(pair)).resolved
    assert false / 1000 <= 0.055


def test_a_certain_trial_beside_several() -> None:
    """kNN: one checkpoint has no chance in it, the three seeds of a method have."""
    rng = np.random.default_rng(7)
    drawn = rng.normal(0, 1, (2, 1, 200))
    seeds = [40.0, 45.0, 38.0]
    method = Sample(seeds, np.repeat(drawn[0], 3, axis=0) + 41, KEY)
    one = Sample([46.0], drawn[1] + 46, KEY)
    assert compare(one, method).estimate.covers == IMAGES and compare(one, method).resolved
    for spread in (None, spread_of([one, method])):
        found = compare(one, method, spread, certain=True)
        of_seeds = stats.t.ppf(0.975, 2) * np.std(seeds, ddof=1) / 3**0.5
        of_images = stats.t.ppf(0.975, 199) * (drawn[1] - drawn[0]).std(ddof=1)
        assert found.estimate.reach() == pytest.approx(math.hypot(of_seeds, of_images))
        assert found.estimate.covers == BOTH and not found.resolved
    alone = Sample([40.0], drawn[0] + 40, KEY)
    spread = spread_of([one, alone, method])
    assert compare(one, alone, spread, certain=True).estimate.covers == IMAGES


def test_what_cannot_be_tested() -> None:
    single = compare(Sample([50.0]), Sample([40.0]))
    assert single.p is None and single.detectable is None and not single.resolved
    assert single.estimate.interval() is None
    first, second = pair_of(np.random.default_rng(3), (1, 3))
    assert compare(first, second).estimate.covers == IMAGES


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.20 times 4, 3, 2, 1, made ascending: 0.04, 0.06, 0.06, 0.20
    assert holm([0.02, 0.2, 0.01, 0.03]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_best_of_a_column() -> None:
    near = [Sample([50.0, 50.4, 50.2]), Sample([50.3, 50.1, 50.4])]
    far = Sample([40.0, 40.3, 40.5])
    assert best_of([near[0], far, near[1]]) == [True, False, True]
    assert best_of(near) == [False, False] and best_of([near[0]]) == [False]  # nothing is resolved
    for value in (99.0, 1.0):  # a single trial takes no part: neither best nor in the way
        alone = Sample([value])
        assert best_of([near[0], far, alone], least_trials=3) == [True, False, False]
        assert best_of([near[0], alone], least_trials=3) == [False, False]


def test_marks_are_rarely_wrong() -> None:
    """Six equal checkpoints: a row is called worse than another in at most 5 % of the columns."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        wrong += any(best_of([Sample(row) for row in rng.normal(50, 1, (6, 4)).tolist()]))
    assert wrong / 300 <= 0.075  # a mark: some row was called worse
