"""Two samples of trials on one test set: whether they differ, and Holm's correction over many.

A difference is "resolved" when its 95 % interval leaves 0 out. Draw b of the images is the same in
both samples, so that images which are hard for both cancel; trials are taken in pairs where both
samples have the same seeds, else as independent (Welch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
LEAST_DRAWS = 100  # shared by both samples; fewer say little about a variance


@dataclass(frozen=True)
class Sample:
    """n trials: their values and seeds; replicates (n, B) or None, of the images `draws` names."""

    values: Sequence[float]
    seeds: Sequence[int | str]
    replicates: np.ndarray | None = None
    draws: tuple[int, str] | None = None


@dataclass(frozen=True)
class Comparison:
    """first - second, in percent points.

    Attributes:
        p: two-sided, of Student's t; None without a standard error.
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


def compare(first: Sample, second: Sample) -> Comparison:
    """The difference of the two means, over the same draws of the test images where known."""
    pair = _shared(first, second)
    seeds = sorted(map(str, first.seeds))
    distinct = len(set(seeds)) == len(seeds)
    paired = distinct and seeds == sorted(map(str, second.seeds)) and len(seeds) > 1
    if paired:
        orders = [np.argsort([str(s) for s in sample.seeds]) for sample in (first, second)]
        values = np.subtract(*(np.asarray(s.values)[o] for s, o in zip((first, second), orders)))
        drawn = None if pair is None else np.subtract(*(r[o] for r, o in zip(pair, orders)))
        found = estimate(values.tolist(), drawn)
    else:
        found = _unpaired(first, second, pair)
    return Comparison(found, p_value(found), detectable(found), paired)


def p_value(found: Estimate) -> float | None:
    """Two-sided, of the hypothesis that the true value is 0."""
    if found.se is None:
        return None
    return float(2 * stdtr(found.df, -abs(found.value) / found.se))


def detectable(found: Estimate, power: float = POWER) -> float | None:
    """The smallest true difference whose t test at 5 % finds it with the given power.

    It is SE times the noncentrality at which Student's noncentral t exceeds the critical value with
    that probability (J. Cohen, Statistical Power Analysis, 2nd edition, 1988, chapter 2); the other
    tail is too rare to count.
    """
    if found.se is None:
        return None
    df = min(found.df, 1e6)
    critical = float(stdtrit(df, (1 + CONFIDENCE) / 2))
    return float(nctdtrinc(df, 1 - power, critical)) * found.se


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values, in the given order; comparing each with alpha keeps the rate of any false
    claim among them below alpha (S. Holm, Scandinavian Journal of Statistics 6(2), 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def not_below(samples: Sequence[Sample], least_trials: int = 1) -> list[bool]:
    """Whether no other sample is resolved above, over all pairs of a column, by Holm's method.

    The highest mean was chosen after a look at all, hence all pairs and not only its own. A sample
    of fewer trials than `least_trials` is resolved from none.
    """
    tested = [i for i, sample in enumerate(samples) if len(sample.values) >= least_trials]
    pairs = [(i, j) for i in tested for j in tested if j < i]
    found = [compare(samples[i], samples[j]) for i, j in pairs]
    kept = [True] * len(samples)
    for (i, j), each, p in zip(pairs, found, holm([1.0 if f.p is None else f.p for f in found])):
        if p < 1 - CONFIDENCE:
            kept[j if each.estimate.value > 0 else i] = False
    return kept


def _unpaired(
    first: Sample, second: Sample, pair: tuple[np.ndarray, np.ndarray] | None
) -> Estimate:
    parts = [
        variance_parts(sample.values, None if pair is None else drawn)
        for sample, drawn in zip((first, second), pair or (None, None))
    ]
    images = None
    if pair is not None:
        apart = pair[0].mean(axis=0) - pair[1].mean(axis=0)
        images = images_variance(apart, interaction(pair[0]) + interaction(pair[1]))
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
