"""All pairs of a column at once, against `comparison.compare` for each pair and Holm's p values."""

from __future__ import annotations

import numpy as np
import pytest

from transfer.results.all_pairs import Column, Differences, best_of
from transfer.results.comparison import Sample, compare, difference, holm, spread_of

KEYS = [(0, "a" * 64), (0, "b" * 64)]


def column_of(
    rng: np.random.Generator, count: int, spread: float = 3.0, alike: bool = False
) -> list[Sample]:
    """Samples of one to five trials, with replicates of one of two kinds or none, or with too few
    of them; some trials agree exactly, so that the rows spread differently, unless `alike`."""
    samples = []
    for _ in range(count):
        n = int(rng.choice([1, 2, 3, 3, 3, 3, 5]))
        varies = alike or rng.random() < 0.8
        values = 50 + rng.normal(0, spread) + varies * rng.normal(size=n)
        kind = int(rng.choice([0, 0, 0, 1, 2, 3]))
        if kind == 3:
            samples.append(Sample(values.tolist()))
            continue
        draws = 200 if kind < 2 else 50
        varied = rng.normal(0, 0.7, draws) * (rng.random() < 0.9) + rng.normal(0, 0.2, (n, draws))
        drawn = values[:, None] + varied
        images = 60 if kind == 1 else None
        samples.append(Sample(values.tolist(), drawn, KEYS[kind % 2], images))
    return samples


def slow_best_of(samples: list[Sample], least_trials: int, certain: bool) -> list[bool]:
    """Every pair by `compare`, every p value by `holm`."""
    tested = [i for i, sample in enumerate(samples) if len(sample.values) >= least_trials]
    pairs = [(i, j) for i in tested for j in tested if j < i]
    spread = spread_of(samples)
    found = [compare(samples[i], samples[j], spread, certain) for i, j in pairs]
    below = set()
    for (i, j), each, p in zip(pairs, found, holm([1.0 if f.p is None else f.p for f in found])):
        if p < 0.05:
            below.add(j if each.estimate.value > 0 else i)
    return [bool(below) and i in tested and i not in below for i in range(len(samples))]


@pytest.mark.parametrize("certain", [False, True])
@pytest.mark.parametrize("alike", [False, True])
def test_differences_are_those_of_each_pair(certain: bool, alike: bool) -> None:
    rng = np.random.default_rng(0)
    samples = column_of(rng, 40, alike=alike)
    spread = spread_of(samples)
    assert spread is not None and spread.is_equal == alike
    column = Column(samples, spread, certain)
    for index in range(len(samples)):
        others = rng.permutation(len(samples))
        others = others[others != index]
        found = column.against(index, others)
        one_by_one = Differences.of(
            [difference(samples[index], samples[o], spread, certain) for o in others]
        )
        assert found.values == pytest.approx(one_by_one.values, abs=1e-12)
        # Of one source alone, the place of the other in the pair does not matter
        ordered = [np.sort(d.variances, axis=1) for d in (found, one_by_one)]
        assert ordered[0] == pytest.approx(ordered[1], rel=1e-9, abs=1e-15)
        reach = [
            np.sqrt((d.variances * np.where(d.variances > 0, d.df, 0.0)).sum(1))
            for d in (found, one_by_one)
        ]
        assert reach[0] == pytest.approx(reach[1], rel=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_the_best_are_those_of_all_pairs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for certain in (False, True):
        count, spread = int(rng.integers(0, 16)), float(rng.choice([0.0, 1.0, 4.0]))
        samples = column_of(rng, count, spread, alike=bool(seed % 2))
        for least in (1, 3):
            assert best_of(samples, least, certain) == slow_best_of(samples, least, certain)


def test_holm_stops_where_its_p_values_do() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(50):
        count = int(rng.integers(1, 30))
        gaps = rng.choice([0.0, 3.0, 8.0], count)
        pairs = [(Sample([*(g + rng.normal(size=4))]), Sample([*rng.normal(size=4)])) for g in gaps]
        found = Differences.of([difference(*pair) for pair in pairs])
        p_values = [compare(*pair).p for pair in pairs]
        expected = [p < 0.05 for p in holm([1.0 if p is None else p for p in p_values])]
        assert found.resolved().tolist() == expected
        hits += sum(expected)
    assert hits > 50


def test_no_pair() -> None:
    one = Sample([1.0, 2.0, 3.0])
    assert best_of([]) == [] and best_of([one]) == [False]
    assert best_of([one, Sample([9.0])], least_trials=3) == [False, False]
    assert not Column([one, one], None).against(0, []).resolved().any()
