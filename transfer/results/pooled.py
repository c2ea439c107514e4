"""One standard deviation for all rows of a column: samples of trials in, differences of means out.

Seeds are not pairs: the same seed in two rows draws other views of other networks. So a difference
of two rows takes the rows' trials as independent. With 3 to 5 trials a row's own deviation is
hardly known; where all rows of a column spread alike, one deviation for all of them is known to
sum(n - 1) degrees of freedom, and the interval is that of the analysis of variance (R. A. Fisher,
1925). Where Bartlett's test rejects that they spread alike (M. S. Bartlett, Proc. Royal Society A
160, 1937), a difference is Welch's, of its own two rows alone.

Legend: n trials of a row; values in the metric's own unit (percent).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from transfer.results.statistics import (
    CONFIDENCE,
    TRIALS,
    Estimate,
    Source,
    combine,
    variance_parts,
)


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


def difference(first: Sequence[float], second: Sequence[float], spread: Spread | None) -> Estimate:
    """The difference of two rows' means, first - second, over trials.

    Args:
        spread: of the column that both are rows of. Where it is not equal the result is Welch's,
            and has no interval for a row of one trial; None: no interval.
    """
    value = math.fsum(first) / len(first) - math.fsum(second) / len(second)
    if spread is None:
        return Estimate(value, (), None)
    if spread.is_equal:
        variance = spread.variance * (1 / len(first) + 1 / len(second))
        return Estimate(value, (Source(variance, spread.df),), TRIALS)
    return combine(value, [variance_parts(row, None) for row in (first, second)], None)


def _squares(row: Sequence[float]) -> float:
    mean = math.fsum(row) / len(row)
    return math.fsum((value - mean) ** 2 for value in row)


def _bartlett(rows: Sequence[Sequence[float]], squares: Sequence[float]) -> float | None:
    if len(rows) < 2:
        return None
    if min(squares) == 0:  # trials that agree beside others that do not: the test has no number
        return 0.0
    from scipy.stats import bartlett  # takes a second to import

    return float(bartlett(*rows).pvalue)
