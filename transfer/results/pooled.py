"""One standard deviation for all rows of a column, and the variance of a difference that it gives.

Trials with equal seeds are not pairs: the same seed in two rows draws different views for different
networks. A difference of two rows therefore treats the rows' trials as independent. With 3 to 5
trials, the deviation of a single row is hardly known. If all rows of a column spread equally, one
deviation for all of them is known to sum(n - 1) degrees of freedom, and the interval is that of the
analysis of variance (R. A. Fisher, 1925). If Bartlett's test rejects equal spreads (M. S. Bartlett,
Proc. Royal Society A 160, 1937), a difference uses Welch's method on its two rows only.
`comparison.difference` applies this, and adds the variance by the test images.

Accuracies change in steps: with m images, one more correct image adds 100 / m. The trials of a row
may therefore agree exactly although the row spreads like the others (with two trials, 400 images
and a deviation of 0.2, a third of all rows do), and Bartlett's statistic of a variance of 0 is
infinite. The test therefore assumes for every row at least the variance of rounding to its steps,
step^2 / 12.

Legend: n trials of a row; values in the metric's own unit (percent).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import chdtrc

from transfer.results.statistics import CONFIDENCE, ROUNDING, Source


@dataclass(frozen=True)
class Spread:
    """Describes the spread of trials within the rows of a column.

    Attributes:
        variance: variance, pooled over the rows.
        df: its degrees of freedom, the sum of n - 1.
        equal_p: Bartlett's p value for equal variances in all rows; None for fewer than two rows
            with two or more trials.
    """

    variance: float
    df: int
    equal_p: float | None

    @property
    def std(self) -> float:
        """Returns the pooled standard deviation."""
        return math.sqrt(self.variance)

    @property
    def is_equal(self) -> bool:
        """Returns whether Bartlett's test does not reject one variance for all rows."""
        return self.equal_p is None or self.equal_p >= 1 - CONFIDENCE

    def of_difference(self, first: int | None, second: int | None) -> Source | None:
        """Returns the variance that the trials add to the difference of two rows' means.

        Args:
            first, second: the rows' numbers of trials; None: a deterministic row.

        Returns:
            None if only the two rows' own spreads may be used (Welch), or if both rows are
            deterministic.
        """
        counts = [count for count in (first, second) if count is not None]
        if not self.is_equal or not counts:
            return None
        return Source(self.variance * math.fsum(1 / count for count in counts), self.df)


def pooled_spread(
    rows: Sequence[Sequence[float]], steps: Sequence[float] | None = None
) -> Spread | None:
    """Returns the spread of the trials of all rows around their rows' means.

    Args:
        steps: for each row the smallest possible difference of two trials; 0 if it is not known
            (None: not known for any row).

    Returns:
        None if no row has two trials, or if the trials agree in every row: the spread is unknown.
    """
    known = [
        (list(map(float, row)), step)
        for row, step in zip(rows, steps or [0.0] * len(rows), strict=True)
        if len(row) > 1
    ]
    squares = [_squares(row) for row, _ in known]
    df = [len(row) - 1 for row, _ in known]
    if math.fsum(squares) == 0:
        return None
    at_least = [max(s, d * step**2 / 12) for s, d, (_, step) in zip(squares, df, known)]
    return Spread(math.fsum(squares) / sum(df), sum(df), _bartlett(df, at_least))


def _squares(row: Sequence[float]) -> float:
    """Returns the sum of squares around the mean; 0 for trials that agree except for rounding."""
    mean = math.fsum(row) / len(row)
    squares = math.fsum((value - mean) ** 2 for value in row)
    return squares if squares > ROUNDING**2 * (len(row) - 1) else 0.0


def _bartlett(df: Sequence[int], squares: Sequence[float]) -> float | None:
    """Returns the p value of scipy.stats.bartlett, whose module takes a second to import."""
    if len(df) < 2:
        return None
    if min(squares) == 0:  # trials agree in some rows and not in others: the test has no value
        return 0.0
    total = sum(df)
    apart = total * math.log(math.fsum(squares) / total)
    apart -= math.fsum(d * math.log(s / d) for d, s in zip(df, squares))
    correction = 1 + (math.fsum(1 / d for d in df) - 1 / total) / (3 * (len(df) - 1))
    return float(chdtrc(len(df) - 1, apart / correction))
