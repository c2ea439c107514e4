"""Mean and spread over trials: values in, `Summary` out. All in the metric's own unit (percent)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """`n` values: their mean, sample standard deviation, half width of the 95 % t interval.

    `std` and `half_width` are None for one value: a single trial shows no spread.
    """

    mean: float
    std: float | None
    n: int
    half_width: float | None


def summarize(values: Sequence[float]) -> Summary:
    """Summarises one or more trials; the interval is Student's, mean +- t(n - 1) std / sqrt(n)."""
    count = len(values)
    assert count, "no values to summarise"
    mean = math.fsum(values) / count
    if count == 1:
        return Summary(mean, None, 1, None)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    return Summary(mean, std, count, quantile * std / math.sqrt(count))
