"""Ranks and rank correlations against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from transfer.results import ranks
from transfer.results.ranks import kendall, ranks_of, spearman


def test_ranks_are_scipys() -> None:
    values = np.random.default_rng(0).integers(0, 6, (5, 40, 7)).astype(float)  # many ties
    assert (ranks_of(values) == stats.rankdata(-values, axis=-1)).all()
    values = np.random.default_rng(1).normal(size=(30, 9))
    assert (ranks_of(values) == stats.rankdata(-values, axis=-1)).all()
    assert ranks_of([50.0, 50.0 + 1e-12, 20.0]).tolist() == [1.5, 1.5, 3.0]
    assert (
        ranks_of([5.0]).tolist() == [1.0] and ranks_of(np.ones((2, 3))).tolist() == [[2.0] * 3] * 2
    )


@pytest.mark.parametrize("most", [10, 10**6])
def test_correlations_are_scipys(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(ranks, "MOST_PAIRS", most)
    draws = np.random.default_rng(1)
    one, two = draws.integers(0, 5, (2, 60, 6)).astype(float)  # ties in most rows
    two[0] = 3.0  # has no order
    one[1] = np.arange(6)
    two[1] = -np.arange(6)
    rhos = [stats.spearmanr(a, b).statistic for a, b in zip(one[1:], two[1:])]
    taus = [stats.kendalltau(a, b).statistic for a, b in zip(one[1:], two[1:])]
    assert spearman(one, two)[1:] == pytest.approx(np.array(rhos), nan_ok=True)
    assert kendall(one, two)[1:] == pytest.approx(np.array(taus), nan_ok=True)
    assert np.isnan(spearman(one, two)[0]) and np.isnan(kendall(one, two)[0])
    assert spearman(one, two)[1] == kendall(one, two)[1] == -1
