"""Means, intervals and variances of trials on one test set, with its bootstrap replicates.

All numbers have the metric's unit (percent). Two things were drawn at random: the trials, and the
test images, which all trials share. The interval covers both. Its variance is that of a bootstrap
that resamples trials and images independently (the pigeonhole bootstrap of A. Owen, Annals of
Applied Statistics 1(2), 2007), in closed form and without its two biases: with s^2 the variance of
n trials and r_i the replicates of trial i,

    SE^2 = s^2 / n  +  Var(mean_i r_i)  -  (mean_i Var(r_i) - Var(mean_i r_i)) / (n - 1)

Resampling trials would give (n - 1) / n of the first term. The last term is the interaction of
trials and images, which the first two terms both contain. The two sources are trials (n - 1 degrees
of freedom) and images (m - 1 or B - 1, whichever is smaller). Each has its own Student quantile t,
and the half width of the interval is sqrt(t_1^2 V_1 + t_2^2 V_2): the confidence is at least the
stated one for any two variances (S. Banerjee, Sankhya 23(3), 1961). A single quantile for the sum,
by Satterthwaite's degrees of freedom, would claim too much with 3 trials: for equal checkpoints it
would resolve 8 % instead of 5 %. Draws of m images have (m - 1) / m of their variance, which is
corrected too.

Legend: n trials, m test images, B bootstrap draws of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
ROUNDING = 1e-9  # percent points; equal trials differ by less
TRIALS, IMAGES, BOTH = "trials", "images", "trials and images"


@dataclass(frozen=True)
class Source:
    """Is a source of chance: its variance, known to `df` degrees of freedom."""

    variance: float
    df: float


@dataclass(frozen=True)
class Estimate:
    """Holds a number, its independent sources of chance (empty: no error is known), and their
    names.
    """

    value: float
    sources: tuple[Source, ...]
    covers: str | None

    @property
    def se(self) -> float | None:
        """Returns the standard error."""
        return math.sqrt(sum(s.variance for s in self.sources)) if self.sources else None

    def reach(self, confidence: float = CONFIDENCE) -> float | None:
        """Returns half of the width of the two-sided interval."""
        return self.combined(lambda df: float(stdtrit(df, (1 + confidence) / 2)))

    def combined(self, quantile: Callable[[float], float]) -> float | None:
        """Returns sqrt(sum of quantile(df)^2 variance) over the sources; None without a source."""
        if not self.sources:
            return None
        return math.sqrt(sum(quantile(s.df) ** 2 * s.variance for s in self.sources))

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """Returns the two-sided interval; None without a source."""
        reach = self.reach(confidence)
        return None if reach is None else (self.value - reach, self.value + reach)


@dataclass(frozen=True)
class Summary:
    """Summarises `n` values: mean, sample standard deviation, half width of the t interval over the
    values.

    `std` and `half_width` are None for one value: a single trial shows no spread. `low` and `high`
    are the 95 % interval over the sources named in `covers`; None if nothing is known.
    """

    mean: float
    std: float | None
    n: int
    half_width: float | None
    low: float | None = None
    high: float | None = None
    covers: str | None = None


@dataclass(frozen=True)
class Parts:
    """Is the variance of a mean: a part by trials, with n - 1 degrees of freedom, and a part by
    images.

    The images' part is estimated from `known` numbers: the draws, or the images if they are fewer.
    """

    trials: float | None
    images: float | None
    n: int
    known: int


def summarize(
    values: Sequence[float],
    replicates: np.ndarray | None = None,
    images: int | None = None,
    *,
    percent: bool = True,
) -> Summary:
    """Summarises one or more trials; replicates are (n, B), draw b of the same images in all.

    Args:
        images: number of test images, None for many.
        percent: cut the interval to 0..100, which accuracies and APs cannot leave.
    """
    assert len(values), "no values to summarise"
    mean, std = _moments(values)
    half_width = None
    if std is not None:
        quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
        half_width = quantile * std / math.sqrt(len(values))
    found = estimate(values, replicates, images)
    interval = found.interval()
    if percent and interval is not None:
        interval = max(interval[0], 0.0), min(interval[1], 100.0)
    low, high = interval or (None, None)
    return Summary(mean, std, len(values), half_width, low, high, found.covers)


def estimate(
    values: Sequence[float], replicates: np.ndarray | None = None, images: int | None = None
) -> Estimate:
    """Returns the mean over trials with its standard error, over trials, images, or both."""
    mean, _ = _moments(values)
    parts = variance_parts(values, replicates, images)
    return combine(mean, [parts], parts.images)


def variance_parts(
    values: Sequence[float],
    replicates: np.ndarray | None,
    images: int | None = None,
    exact: bool = False,
) -> Parts:
    """Returns the variance of the mean of `values`; `images` excludes what the trials contain.

    exact: a single value is deterministic (kNN on given weights), so the trials' part is 0.
    """
    count, (_, std) = len(values), _moments(values)
    trials = (0.0 if exact else None) if std is None else std**2 / count
    if replicates is None:
        return Parts(trials, None, count, 0)
    assert replicates.shape[0] == count, "one row of replicates per trial"
    variance = images_variance(replicates.mean(axis=0), interaction(replicates), images)
    return Parts(trials, variance, count, min(replicates.shape[1], images or math.inf))


def images_variance(drawn: np.ndarray, contained: float, images: int | None) -> float | None:
    """Returns the variance over the draws (B,) minus `contained`, at least 0.

    `contained` is what the trials' part already has. The result is None if all draws give the same
    number (100 % correct): they say nothing about the images.
    """
    variance = float(drawn.var(ddof=1))
    if variance <= ROUNDING**2:
        return None
    return max(variance - contained, 0.0) * (images / (images - 1) if images else 1.0)


def interaction(replicates: np.ndarray) -> float:
    """Returns the part of the variance of the mean over n trials, (n, B), by their interaction."""
    if len(replicates) < 2:
        return 0.0
    each = float(replicates.var(axis=1, ddof=1).mean())
    together = float(replicates.mean(axis=0).var(ddof=1))
    return max(0.0, each - together) / (len(replicates) - 1)


def combine(
    value: float, parts: Sequence[Parts], images: float | None, pooled: Source | None = None
) -> Estimate:
    """Adds the trials' parts and one part by images (which two samples share).

    A part that is unknown in one sample is unknown in the sum. If the trials agree exactly and the
    images say nothing, there is no source of error, because 0 would claim certainty. The trials of
    two samples have one quantile, with Welch's degrees of freedom (B. Welch, Biometrika 34, 1947).

    Args:
        pooled: the trials' source if more rows than these are known; it replaces their parts.
    """
    known = [p.trials for p in parts if p.trials is not None]
    trials = sum(known) if len(known) == len(parts) else None
    sources = []
    if pooled is not None:
        trials = pooled.variance
        sources.append(pooled)
    elif trials:
        spread = sum(p.trials**2 / (p.n - 1) for p in parts if p.trials)
        sources.append(Source(trials, trials**2 / spread))
    if images:
        sources.append(Source(images, min(p.known for p in parts) - 1))
    return Estimate(value, tuple(sources), _covers(trials, images) if sources else None)


def _covers(trials: float | None, images: float | None) -> str:
    if trials is not None and images is not None:
        return BOTH
    return IMAGES if trials is None else TRIALS


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns mean and sample standard deviation, None for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, std if std > ROUNDING else 0.0
