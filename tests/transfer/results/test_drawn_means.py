"""Drawn means: they have the variances by which rows are compared, and images stay paired."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.results.comparison import Sample, difference, spread_of
from transfer.results.drawn_means import draw_means
from transfer.results.statistics import estimate

DRAWS = 40_000


def _samples(seed: int, rows: int = 3, trials: int = 4, images: int = 60) -> list[Sample]:
    draws = np.random.default_rng(seed)
    hard = draws.normal(0, 15, images)
    weights = draws.multinomial(images, np.ones(images) / images, size=200).T / images
    found = []
    for row in range(rows):
        scores = 50 + row + hard + draws.normal(0, 4, images) + draws.normal(0, 3, (trials, images))
        scores += draws.normal(0, 0.8, (trials, 1))
        found.append(Sample(scores.mean(axis=1), scores @ weights, (0, "images"), images))
    return found


def test_variances_are_those_of_the_comparison() -> None:
    """The variance of each mean and difference; images that are hard for all cancel in it."""
    samples = _samples(0)
    drawn = draw_means(samples, False, DRAWS, np.random.default_rng(0))
    spread = spread_of(samples)
    assert spread is not None and spread.is_equal
    # Student's t has df / (df - 2) times the variance
    heavy = spread.df / (spread.df - 2)
    for row, sample in enumerate(samples):
        trials, images = estimate(sample.values, sample.replicates, sample.images).sources
        expected = heavy * spread.variance / len(sample.values) + images.variance
        assert drawn[:, row].var() == pytest.approx(expected, rel=0.04)
        assert drawn[:, row].mean() == pytest.approx(np.mean(sample.values), abs=0.05)
    found = difference(samples[0], samples[1], spread)
    apart = drawn[:, 0] - drawn[:, 1]
    trials, images = found.sources
    assert apart.var() == pytest.approx(heavy * trials.variance + images.variance, rel=0.1)
    assert drawn[:, 0].var() > 2 * apart.var()  # the rows share their images


def test_rows_that_spread_differently_keep_their_own() -> None:
    draws = np.random.default_rng(3)
    samples = [Sample(draws.normal(50, sd, 12)) for sd in (0.1, 5.0)]
    drawn = draw_means(samples, False, DRAWS, np.random.default_rng(0))
    for row, sample in enumerate(samples):
        expected = 11 / 9 * np.var(sample.values, ddof=1) / 12
        assert drawn[:, row].var() == pytest.approx(expected, rel=0.06)


def test_what_is_not_known_adds_nothing() -> None:
    single = [Sample([50.0]), Sample([60.0])]
    assert (draw_means(single, False, 9, np.random.default_rng(0)) == [50.0, 60.0]).all()
    knn = [Sample([50.0]), Sample([60.0, 61.0])]  # a deterministic row next to an untrained one
    drawn = draw_means(knn, True, 99, np.random.default_rng(0))
    assert (drawn[:, 0] == 50).all() and drawn[:, 1].std() > 0
    drawn = draw_means(knn, False, 99, np.random.default_rng(0))
    assert drawn[:, 0].std() > 0  # a random task: the single trial spreads like the others


def test_draws_are_seeded() -> None:
    one, two = (draw_means(_samples(0), False, 50, np.random.default_rng(7)) for _ in range(2))
    assert (one == two).all()
