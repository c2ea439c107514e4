"""Pooled differences against scipy, a regression by hand, and their coverage by simulation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from transfer.results.comparison import Sample
from transfer.results.comparison import difference as difference_of_samples
from transfer.results.comparison import p_value, spread_of
from transfer.results.pooled import Spread, pooled_spread
from transfer.results.statistics import Estimate

ROWS = [[10.0, 12.5, 11.0], [14.0, 13.0, 15.5, 14.2], [9.0, 9.5], [20.0]]


def difference(first: Sequence[float], second: Sequence[float], spread: Spread | None) -> Estimate:
    """The difference as the report computes it, from trials alone."""
    return difference_of_samples(Sample(first), Sample(second), spread)


def by_regression(rows: list[list[float]], first: int, second: int) -> tuple[float, float, int]:
    """Difference, its standard error and df, by least squares on dummy variables of the rows."""
    values = np.concatenate([np.array(row) for row in rows])
    design = np.zeros((len(values), len(rows)))
    design[np.arange(len(values)), np.repeat(range(len(rows)), [len(row) for row in rows])] = 1.0
    coefficients, *_ = np.linalg.lstsq(design, values, rcond=None)
    residuals = values - design @ coefficients
    df = len(values) - len(rows)
    contrast = np.zeros(len(rows))
    contrast[first], contrast[second] = 1.0, -1.0
    covariance = residuals @ residuals / df * np.linalg.inv(design.T @ design)
    return float(contrast @ coefficients), math.sqrt(contrast @ covariance @ contrast), df


def test_the_pooled_difference_is_the_regressions() -> None:
    spread = pooled_spread(ROWS)
    assert spread is not None and spread.is_equal
    for first in range(4):
        for second in range(4):
            if first == second:
                continue
            value, se, df = by_regression(ROWS, first, second)
            found = difference(ROWS[first], ROWS[second], spread)
            assert found.value == pytest.approx(value) and found.se == pytest.approx(se)
            assert spread.df == df == 6
            low, high = stats.t.interval(0.95, df, loc=value, scale=se)
            assert found.interval() == pytest.approx((low, high))
            assert p_value(found) == pytest.approx(2 * stats.t.sf(abs(value) / se, df))


def test_two_rows_alone_are_students_test() -> None:
    spread = pooled_spread(ROWS[:2])
    test = stats.ttest_ind(ROWS[0], ROWS[1])
    assert p_value(difference(ROWS[0], ROWS[1], spread)) == pytest.approx(test.pvalue)


def test_bartlett_is_scipys() -> None:
    spread = pooled_spread(ROWS)
    assert spread is not None
    assert spread.equal_p == pytest.approx(stats.bartlett(*ROWS[:3]).pvalue)
    assert spread.std == pytest.approx(math.sqrt(spread.variance))


def test_rows_that_spread_differently_are_welchs() -> None:
    rows = [[10.0, 10.1, 9.9, 10.05], [10.0, 30.0, 20.0, 45.0], [1.0, 1.1, 0.9]]
    spread = pooled_spread(rows)
    assert spread is not None and not spread.is_equal
    test = stats.ttest_ind(rows[0], rows[2], equal_var=False)
    found = difference(rows[0], rows[2], spread)
    assert p_value(found) == pytest.approx(test.pvalue)
    assert found.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert difference(rows[0], [5.0], spread).interval() is None, "one trial shows no spread"


def test_what_shows_no_spread_gives_no_interval() -> None:
    assert pooled_spread([[1.0], [2.0]]) is None and pooled_spread([]) is None
    assert pooled_spread([[1.0, 1.0], [2.0, 2.0]]) is None
    assert pooled_spread([[61.3] * 3, [0.1 + 0.2, 0.3]]) is None, "rounding is not spread"
    found = difference([1.0, 1.0], [2.0], None)
    assert (found.value, found.interval()) == (-1.0, None)
    odd = pooled_spread([[1.0, 1.0], [2.0, 3.0]])
    assert odd is not None and odd.equal_p == 0.0 and not odd.is_equal
    alone = pooled_spread([[1.0, 2.0], [5.0]])
    assert alone == Spread(0.5, 1, None) and alone.is_equal


@pytest.mark.parametrize("count", [2, 3, 7])
@pytest.mark.parametrize("wanted, known", [(0.9, False), (1.1, True)])
def test_a_row_spreads_if_it_differs_by_more_than_rounding(
    count: int, wanted: float, known: bool
) -> None:
    """A row's standard deviation of 1e-9 or less is 0, whatever its number of trials."""
    row = np.arange(count) / np.std(np.arange(count), ddof=1) * wanted * 1e-9
    spread = pooled_spread([row.tolist(), [1.0]])
    assert (spread is not None) == known
    assert spread is None or spread.std == pytest.approx(wanted * 1e-9)


def test_intervals_cover_and_pooling_finds_more() -> None:
    """8 rows of 5 trials, as docs/results/masking.md: 95 % of the intervals hold the difference,
    and a true one of 4 standard errors is found far more often than by pairs of seeds."""
    draws = np.random.default_rng(0)
    held, found, by_pairs = 0, 0, 0
    repetitions = 400
    for _ in range(repetitions):
        values = draws.normal(0.0, 0.5, (8, 5))
        values[1] += 4 * 0.5 * math.sqrt(2 / 5)
        spread = pooled_spread(values.tolist())
        low, high = difference(values[1].tolist(), values[0].tolist(), spread).interval() or (0, 0)
        held += low <= 4 * 0.5 * math.sqrt(2 / 5) <= high
        p = p_value(difference(values[1].tolist(), values[0].tolist(), spread))
        found += p is not None and p < 0.05 / 6
        by_pairs += stats.ttest_rel(values[1], values[0]).pvalue < 0.05 / 6
    assert 0.92 <= held / repetitions <= 0.98
    assert found / repetitions > 0.75 and by_pairs < 0.7 * found


def test_trials_that_agree_by_the_steps_of_the_images_do_not_tell_the_rows_apart() -> None:
    """Rows of one spread, rounded to the steps of 400 images: many rows of two trials agree
    exactly, and without the step every such column would fall to Welch's wide intervals."""
    draws, step = np.random.default_rng(7), 100 / 400
    rejected, without, held, repetitions = 0, 0, 0, 400
    for _ in range(repetitions):
        rows = np.round(draws.normal(50.0, 0.3, (6, 2)) / step) * step
        samples = [Sample(row.tolist(), images=400) for row in rows]
        spread, plain = spread_of(samples), pooled_spread(rows.tolist())
        if spread is None or plain is None:
            continue
        assert (spread.variance, spread.df) == (plain.variance, plain.df)
        rejected += not spread.is_equal
        without += not plain.is_equal
        low, high = difference_of_samples(samples[0], samples[1], spread).interval() or (0, 0)
        held += low <= 0 <= high
    assert rejected / repetitions < 0.05 < 0.5 < without / repetitions
    assert 0.92 <= held / repetitions <= 0.98


def test_the_step_hides_no_row_that_spreads_more() -> None:
    rows = [[50.0, 50.0, 50.0], [50.25, 50.25, 50.5], [40.0, 60.0, 50.0]]
    spread = pooled_spread(rows, [0.25] * 3)
    assert spread is not None and not spread.is_equal
    with pytest.raises(ValueError):
        pooled_spread(rows, [0.25])
