"""One standard deviation for all rows of a column, and the variance of a difference that it gives.

Seeds are not pairs: the same seed in two rows draws other views of other networks. So a difference
of two rows takes the rows' trials as independent. With 3 to 5 trials a row's own deviation is
hardly known; where all rows of a column spread alike, one deviation for all of them is known to
sum(n - 1) degrees of freedom, and the interval is that of the analysis of variance (R. A. Fisher,
1925). Where Bartlett's test rejects that they spread alike (M. S. Bartlett, Proc. Royal Society A
160, 1937), a difference is Welch's, of its own two rows alone. `comparison.difference` applies
this, and adds what the test images add.

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


def pooled_spread(rows: Sequence[Sequence[float]]) -> Spread | None:
    """The spread of the trials of all rows about their rows' means.

    None where no row has two trials, or all trials of every row agree: nothing is known then.
    """
    known = [list(map(float, row)) for row in rows if len(row) > 1]
    squares = [_squares(row) for row in known]
    df = sum(len(row) - 1 for row in known)
    if math.fsum(squares) == 0:
        return None
    return Spread(math.fsum(squares) / df, df, _bartlett(known, squares))


def _squares(row: Sequence[float]) -> float:
    """Sum of squares about the mean; 0 for trials that agree but for rounding."""
    mean = math.fsum(row) / len(row)
    squares = math.fsum((value - mean) ** 2 for value in row)
    return squares if squares > ROUNDING**2 * (len(row) - 1) else 0.0


def _bartlett(rows: Sequence[Sequence[float]], squares: Sequence[float]) -> float | None:
    """As scipy.stats.bartlett, whose module takes a second to import."""
    if len(rows) < 2:
        return None
    if min(squares) == 0:  # trials that agree beside others that do not: the test has no number
        return 0.0
    df = [len(row) - 1 for row in rows]
    total = sum(df)
    apart = total * math.log(math.fsum(squares) / total)
    apart -= math.fsum(d * math.log(s / d) for d, s in zip(df, squares))
    correction = 1 + (math.fsum(1 / d for d in df) - 1 / total) / (3 * (len(rows) - 1))
    return float(chdtrc(len(rows) - 1, apart / correction))
