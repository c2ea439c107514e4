"""Two samples of trials on one test set: whether they differ, and Holm's correction over many.

A difference is "resolved" when its 95 % interval leaves 0 out. Draw b of the images is the same in
both samples, so that images which are hard for both cancel; trials are taken in pairs where both
samples have the same seeds, else as independent (Welch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtrinc, stdtr, stdtrit

from transfer.results.statistics import (
    CONFIDENCE,
    Estimate,
    combine,
    estimate,
    images_variance,
    interaction,
    variance_parts,
)

POWER = 0.8
LEAST_P = 1e-12  # of two sources; smaller ones need quantiles that no float holds
LEAST_DRAWS = 100  # shared by both samples; fewer say little about a variance


@dataclass(frozen=True)
class Sample:
    """n trials: their values and seeds; replicates (n, B) or None, of the images `draws` names.

    `images` is the number of those, None for many. Seeds are those of what the n were drawn as:
    trials of two samples are pairs where all agree.
    """

    values: Sequence[float]
    seeds: Sequence[int | str]
    replicates: np.ndarray | None = None
    draws: tuple[int, str] | None = None
    images: int | None = None


@dataclass(frozen=True)
class Comparison:
    """first - second, in percent points.

    Attributes:
        p: two-sided; None without a standard error.
        detectable: the smallest true difference that such a comparison resolves in 80 of 100 times.
        paired: whether trials were taken in pairs of one seed.
    """

    estimate: Estimate
    p: float | None
    detectable: float | None
    paired: bool

    @property
    def resolved(self) -> bool:
        """Whether the 95 % interval leaves out 0."""
        return self.p is not None and self.p < 1 - CONFIDENCE


def compare(first: Sample, second: Sample, certain: bool = False) -> Comparison:
    """The difference of the two means, over the same draws of the test images where known.

    certain: the task has no chance in it on given weights (kNN), so that one trial beside several
    (other initialisations, other pretraining seeds) adds no variance of its own.
    """
    found, paired = difference(first, second, certain)
    return Comparison(found, p_value(found), detectable(found), paired)


def difference(first: Sample, second: Sample, certain: bool = False) -> tuple[Estimate, bool]:
    """What `compare` begins with: first - second, and whether trials were taken in pairs."""
    pair = _shared(first, second)
    seeds = sorted(map(str, first.seeds))
    distinct = len(set(seeds)) == len(seeds)
    if distinct and seeds == sorted(map(str, second.seeds)) and len(seeds) > 1:
        orders = [orders_by_seed(sample) for sample in (first, second)]
        values = np.subtract(*(np.asarray(s.values)[o] for s, o in zip((first, second), orders)))
        drawn = None if pair is None else np.subtract(*(r[o] for r, o in zip(pair, orders)))
        return estimate(values.tolist(), drawn, first.images), True
    exact = certain and max(len(first.values), len(second.values)) > 1
    return _unpaired(first, second, pair, exact), False


def orders_by_seed(sample: Sample) -> np.ndarray:
    """The places of the sample's trials in the order of their seeds."""
    return np.argsort([str(seed) for seed in sample.seeds])


def p_value(found: Estimate) -> float | None:
    """Two-sided, of the hypothesis that the true value is 0: where the interval just reaches it."""
    if found.se is None:
        return None
    # Of one source this is Student's test; of two the answer lies between those of each alone
    ratio = abs(found.value) / found.se
    ends = [float(2 * stdtr(source.df, -ratio)) for source in found.sources]
    if max(ends) - min(ends) <= LEAST_P:
        return max(ends)

    def beyond(p: float) -> float:
        reach = found.combined(lambda df: float(stdtrit(df, p / 2)))
        assert reach is not None, "an estimate with a standard error has a source"
        return reach - abs(found.value)

    low, high = max(min(ends), LEAST_P), max(ends)
    if beyond(low) <= 0 or beyond(high) >= 0:  # the latter by rounding alone
        return low if beyond(low) <= 0 else high
    return float(brentq(beyond, low, high, xtol=LEAST_P))


def detectable(found: Estimate, power: float = POWER) -> float | None:
    """The smallest true difference whose test at 5 % finds it with the given power.

    For one source it is SE times the noncentrality at which Student's noncentral t exceeds the
    critical value with that probability (J. Cohen, Statistical Power Analysis, 2nd edition, 1988,
    chapter 2); the other tail is too rare to count. Sources add as in the interval.
    """

    return found.combined(lambda df: _noncentrality(min(df, 1e6), power))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the given order; comparing each with alpha keeps the rate of any false
    claim among them below alpha (S. Holm, Scandinavian Journal of Statistics 6(2), 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@lru_cache(maxsize=4096)  # the pairs of a column have few different df
def _noncentrality(df: float, power: float) -> float:
    return float(nctdtrinc(df, 1 - power, float(stdtrit(df, (1 + CONFIDENCE) / 2))))


def _unpaired(
    first: Sample, second: Sample, pair: tuple[np.ndarray, np.ndarray] | None, exact: bool
) -> Estimate:
    parts = [
        variance_parts(sample.values, None if pair is None else drawn, sample.images, exact)
        for sample, drawn in zip((first, second), pair or (None, None))
    ]
    images = None
    if pair is not None:
        apart = pair[0].mean(axis=0) - pair[1].mean(axis=0)
        contained = interaction(pair[0]) + interaction(pair[1])
        images = images_variance(apart, contained, first.images)
    difference = math.fsum(first.values) / len(first.values)
    difference -= math.fsum(second.values) / len(second.values)
    return combine(difference, parts, images)


def _shared(first: Sample, second: Sample) -> tuple[np.ndarray, np.ndarray] | None:
    """Both samples' replicates on the draws that they have in common."""
    if first.replicates is None or second.replicates is None or first.draws != second.draws:
        return None
    count = min(first.replicates.shape[1], second.replicates.shape[1])
    if count < LEAST_DRAWS:
        return None
    return first.replicates[:, :count], second.replicates[:, :count]
