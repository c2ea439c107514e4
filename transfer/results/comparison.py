"""Two samples of trials on one test set: whether they differ, and Holm's correction over many.

A difference is "resolved" if its 95 % interval does not contain 0. Draw b of the images is the same
in both samples, so images that are hard for both cancel out. Trials are independent, also if their
seeds are equal: their spread is that of all rows of the column (`pooled`), or of the two samples
only (Welch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import nctdtrinc, stdtr, stdtrit

from transfer.results.pooled import Spread, pooled_spread
from transfer.results.statistics import (
    CONFIDENCE,
    Estimate,
    combine,
    images_variance,
    interaction,
    variance_parts,
)

POWER = 0.8
LEAST_P = 1e-12  # with two sources; smaller ones need quantiles that a float cannot represent
LEAST_DRAWS = 100  # shared by both samples; fewer draws estimate a variance badly


@dataclass(frozen=True)
class Sample:
    """Holds n trials: their values, and replicates (n, B) or None, of the images that `draws`
    identifies.

    `images` is the number of these images; None for many.
    """

    values: Sequence[float]
    replicates: np.ndarray | None = None
    draws: tuple[int, str] | None = None
    images: int | None = None


@dataclass(frozen=True)
class Comparison:
    """Is the difference first - second, in percent points.

    Attributes:
        p: two-sided; None without a standard error.
        detectable: the smallest true difference that such a comparison resolves 80 % of the time.
    """

    estimate: Estimate
    p: float | None
    detectable: float | None

    @property
    def resolved(self) -> bool:
        """Returns whether the 95 % interval does not contain 0."""
        return self.p is not None and self.p < 1 - CONFIDENCE


def compare(
    first: Sample, second: Sample, spread: Spread | None = None, certain: bool = False
) -> Comparison:
    """Returns `difference` of the arguments, with its p value and the detectable difference."""
    found = difference(first, second, spread, certain)
    return Comparison(found, p_value(found), detectable(found))


def difference(
    first: Sample, second: Sample, spread: Spread | None = None, certain: bool = False
) -> Estimate:
    """Returns the difference of the two means, over the same draws of the test images if known.

    Args:
        spread: spread of the trials in the column that has both rows (`spread_of`). None: the two
            rows have no common column, or it shows no spread; only their own trials are used then.
        certain: the task is deterministic on given weights (kNN). If one side has one trial and the
            other several (different initialisations or pretraining seeds), the single trial adds no
            variance.
    """
    pair = _shared(first, second)
    counts = [len(first.values), len(second.values)]
    exact = certain and max(counts) > 1
    parts = [
        variance_parts(sample.values, drawn, sample.images, exact)
        for sample, drawn in zip((first, second), pair or (None, None))
    ]
    images = None
    if pair is not None:
        apart = pair[0].mean(axis=0) - pair[1].mean(axis=0)
        contained = interaction(pair[0]) + interaction(pair[1])
        images = images_variance(apart, contained, first.images)
    value = math.fsum(first.values) / counts[0] - math.fsum(second.values) / counts[1]
    pooled = None if spread is None else spread.of_difference(*chances(counts, certain))
    return combine(value, parts, images, pooled)


def spread_of(samples: Sequence[Sample]) -> Spread | None:
    """Returns the spread of the trials of a column's rows around their means; see `pooled`."""
    steps = [100 / sample.images if sample.images else 0.0 for sample in samples]
    return pooled_spread([sample.values for sample in samples], steps)


def chances(counts: Sequence[int], certain: bool) -> list[int | None]:
    """Returns the numbers of trials; None for a single trial of a deterministic task."""
    return [None if certain and count == 1 else count for count in counts]


def p_value(found: Estimate) -> float | None:
    """Returns the two-sided p value for a true value of 0: there the interval just reaches 0."""
    if found.se is None:
        return None
    # With one source this is Student's test; with two, p is between the p values of each alone
    ratio = abs(found.value) / found.se
    ends = [float(2 * stdtr(source.df, -ratio)) for source in found.sources]
    if max(ends) - min(ends) <= LEAST_P:
        return max(ends)

    def beyond(p: float) -> float:
        reach = found.combined(lambda df: float(stdtrit(df, p / 2)))
        assert reach is not None, "an estimate with a standard error has a source"
        return reach - abs(found.value)

    low, high = max(min(ends), LEAST_P), max(ends)
    if beyond(low) <= 0 or beyond(high) >= 0:  # the latter only by rounding
        return low if beyond(low) <= 0 else high
    return float(brentq(beyond, low, high, xtol=LEAST_P))


def detectable(found: Estimate, power: float = POWER) -> float | None:
    """Returns the smallest true difference that a test at 5 % finds with the given power.

    For one source it is SE times the noncentrality at which Student's noncentral t exceeds the
    critical value with that probability (J. Cohen, Statistical Power Analysis, 2nd edition, 1988,
    chapter 2); the other tail is negligible. Several sources add up as in the interval.
    """

    return found.combined(lambda df: _noncentrality(min(df, 1e6), power))


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns adjusted p values, in the given order.

    If each is compared with alpha, the probability of any false claim among them is below alpha (S.
    Holm, Scandinavian Journal of Statistics 6(2), 1979).
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@lru_cache(maxsize=4096)  # the pairs of a column have only few different df
def _noncentrality(df: float, power: float) -> float:
    return float(nctdtrinc(df, 1 - power, float(stdtrit(df, (1 + CONFIDENCE) / 2))))


def _shared(first: Sample, second: Sample) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns both samples' replicates on the draws that they have in common."""
    if first.replicates is None or second.replicates is None or first.draws != second.draws:
        return None
    count = min(first.replicates.shape[1], second.replicates.shape[1])
    if count < LEAST_DRAWS:
        return None
    return first.replicates[:, :count], second.replicates[:, :count]
