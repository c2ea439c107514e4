"""Summaries against numpy and scipy; the interval covers the truth as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from transfer.results.statistics import summarize


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
