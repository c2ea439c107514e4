"""One standard deviation for all rows of a column, and the variance of a difference that it gives.

Seeds are not pairs: the same seed in two rows draws other views of other networks. So a difference
of two rows takes the rows' trials as independent. With 3 to 5 trials a row's own deviation is
hardly known; where all rows of a column spread alike, one deviation for all of them is known to
sum(n - 1) degrees of freedom, and the interval is that of the analysis of variance (R. A. Fisher,
1925). Where Bartlett's test rejects that they spread alike (M. S. Bartlett, Proc. Royal Society A
160, 1937), a difference is Welch's, of its own two rows alone. `comparison.difference` applies
this, and adds what the test images add.

Accuracies move in steps: of m images, one more right adds 100 / m. Trials of a row can so agree
exactly although the row spreads as the others do (two trials of 400 images and a deviation of 0.2
do in a third of all rows), and Bartlett's statistic of a variance of 0 is infinite. It therefore
takes no row to spread less than the rounding to its steps alone does, step^2 / 12.

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
    """How the trials of a column's rows differ within a row.

    Attributes:
        variance: pooled over the rows.
        df: its degrees of freedom, the sum of n - 1.
        equal_p: Bartlett's p that all rows have this variance; None for fewer than two rows of two
            trials.
    """

    variance: float
    df: int
    equal_p: float | None

    @property
    def std(self) -> float:
        """The pooled standard deviation."""
        return math.sqrt(self.variance)

    @property
    def is_equal(self) -> bool:
        """Whether nothing speaks against one variance for all rows."""
        return self.equal_p is None or self.equal_p >= 1 - CONFIDENCE

    def of_difference(self, first: int | None, second: int | None) -> Source | None:
        """What trials add to the difference of two rows' means.

        Args:
            first, second: the rows' numbers of trials; None: a row without chance in it.

        Returns:
            None where the two rows' own spreads have to tell (Welch), or none has chance in it.
        """
        counts = [count for count in (first, second) if count is not None]
        if not self.is_equal or not counts:
            return None
        return Source(self.variance * math.fsum(1 / count for count in counts), self.df)


def pooled_spread(
    rows: Sequence[Sequence[float]], steps: Sequence[float] | None = None
) -> Spread | None:
    """The spread of the trials of all rows about their rows' means.

    Args:
        steps: the least by which two trials of a row can differ, for each row; 0 if it is not
            known (None: of no row).

    Returns:
        None if no row has two trials, or all trials of every row agree: nothing is known then.
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
    """Sum of squares about the mean; 0 for trials that agree but for rounding."""
    mean = math.fsum(row) / len(row)
    squares = math.fsum((value - mean) ** 2 for value in row)
    return squares if squares > ROUNDING**2 * (len(row) - 1) else 0.0


def _bartlett(df: Sequence[int], squares: Sequence[float]) -> float | None:
    """As scipy.stats.bartlett, whose module takes a second to import."""
    if len(df) < 2:
        return None
    if min(squares) == 0:  # trials that agree beside others that do not: the test has no number
        return 0.0
    total = sum(df)
    apart = total * math.log(math.fsum(squares) / total)
    apart -= math.fsum(d * math.log(s / d) for d, s in zip(df, squares))
    correction = 1 + (math.fsum(1 / d for d in df) - 1 / total) / (3 * (len(df) - 1))
    return float(chdtrc(len(df) - 1, apart / correction))
