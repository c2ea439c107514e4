"""What some trials on one test set say: values and bootstrap replicates in, estimates out.

All in the metric's own unit (percent). Two things were drawn: the trials, and the test images,
which every trial shares. The interval covers both. Its variance is that of a bootstrap that
resamples trials and images independently (the pigeonhole bootstrap of A. Owen, Annals of Applied
Statistics 1(2), 2007), in closed form and without its two biases: with s^2 the variance of n trials
and r_i the replicates of trial i,

    SE^2 = s^2 / n  +  Var(mean_i r_i)  -  (mean_i Var(r_i) - Var(mean_i r_i)) / (n - 1)

Resampling trials would give (n - 1) / n of the first term. The last term is how trials differ by
image, which the first two both contain. Quantiles are Student's with Welch's and Satterthwaite's
degrees of freedom (F. Satterthwaite, Biometrics Bulletin 2(6), 1946), n - 1 for the first term and
B - 1 for the others: few trials widen the interval as they should. Of two trials there is 1 degree,
whatever the images say: the approximation would cover 89 % where it should 95 %.

Legend: n trials, B bootstrap draws of the images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

CONFIDENCE = 0.95
_ROUNDING = 1e-9  # percent points; equal trials differ by less
TRIALS, IMAGES, BOTH = "trials", "images", "trials and images"


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, and what was resampled for it (None: nothing, no error).

    `df` are the degrees of freedom of Student's t.
    """

    value: float
    se: float | None
    df: float | None
    covers: str | None

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float] | None:
        """The two-sided interval; None without a standard error."""
        if self.se is None:
            return None
        reach = float(stdtrit(self.df, (1 + confidence) / 2)) * self.se
        return self.value - reach, self.value + reach


@dataclass(frozen=True)
class Summary:
    """`n` values: mean, sample standard deviation, half width of the t interval over them alone.

    `std` and `half_width` are None for one value: a single trial shows no spread. `low` and `high`
    are the 95 % interval over what `covers` says; None where nothing is known.
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
    """Variance of a mean: a part by trials, with n - 1 degrees of freedom, and one by images."""

    trials: float | None
    images: float | None
    n: int
    draws: int


def summarize(
    values: Sequence[float], replicates: np.ndarray | None = None, *, percent: bool = True
) -> Summary:
    """Summarises one or more trials; replicates are (n, B), draw b of the same images in all.

    Args:
        percent: cut the interval to 0..100, which accuracies and APs cannot leave.
    """
    assert len(values), "no values to summarise"
    mean, std = _moments(values)
    half_width = None
    if std is not None:
        quantile = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
        half_width = quantile * std / math.sqrt(len(values))
    found = estimate(values, replicates)
    low, high = found.interval() or (None, None)
    if percent and low is not None:
        low, high = max(low, 0.0), min(high, 100.0)
    return Summary(mean, std, len(values), half_width, low, high, found.covers)


def estimate(values: Sequence[float], replicates: np.ndarray | None = None) -> Estimate:
    """The mean over trials with its standard error, over trials, images, or both."""
    mean, _ = _moments(values)
    parts = variance_parts(values, replicates)
    return combine(mean, [parts], parts.images)


def variance_parts(values: Sequence[float], replicates: np.ndarray | None) -> Parts:
    """The variance of the mean of `values`; `images` is without what the trials' part contains."""
    count, (_, std) = len(values), _moments(values)
    trials = None if std is None else std**2 / count
    if replicates is None:
        return Parts(trials, None, count, 0)
    assert replicates.shape[0] == count, "one row of replicates per trial"
    images = images_variance(replicates.mean(axis=0), interaction(replicates))
    return Parts(trials, images, count, replicates.shape[1])


def images_variance(drawn: np.ndarray, contained: float) -> float | None:
    """Variance over the draws (B,) without what the trials' part contains of it, at least 0.

    None where all draws give one number (100 % right): they say nothing of the images.
    """
    variance = float(drawn.var(ddof=1))
    return max(variance - contained, 0.0) if variance > _ROUNDING**2 else None


def interaction(replicates: np.ndarray) -> float:
    """Variance of the mean over n trials, (n, B), that comes from how trials differ by image."""
    if len(replicates) < 2:
        return 0.0
    each = float(replicates.var(axis=1, ddof=1).mean())
    together = float(replicates.mean(axis=0).var(ddof=1))
    return max(0.0, each - together) / (len(replicates) - 1)


def combine(value: float, parts: Sequence[Parts], images: float | None) -> Estimate:
    """Adds the trials' parts and one part by images (which two samples share).

    A part that is unknown in one sample is unknown in the sum. Where the trials agree exactly and
    the images say nothing there is no standard error: 0 would claim certainty.
    """
    trials = None if any(p.trials is None for p in parts) else sum(p.trials for p in parts)
    total = (trials or 0.0) + (images or 0.0)
    if total == 0.0:
        return Estimate(value, None, None, None)
    spread = sum(p.trials**2 / (p.n - 1) for p in parts) if trials else 0.0
    if images:
        spread += images**2 / (min(p.draws for p in parts) - 1)
    df = total**2 / spread
    if trials and all(p.n == 2 for p in parts):
        df = 1.0
    return Estimate(value, math.sqrt(total), df, _covers(trials, images))


def _covers(trials: float | None, images: float | None) -> str:
    if trials is not None and images is not None:
        return BOTH
    return IMAGES if trials is None else TRIALS


def _moments(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation, None for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, std if std > _ROUNDING else 0.0
